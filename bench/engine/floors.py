"""What the machine can do at best: how fast it reads memory and multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from baton.engine.model.config import ModelConfig
from bench.engine.checkpoint import num_step_weights
from kernels import native
from kernels.native.packed import PackedMatrix, room

_READ_BYTES = 400 << 20
_GEMM = (768, 4096, 768)
_REPETITIONS = 5


@dataclass(frozen=True, slots=True)
class Floors:
    """Best of some repetitions."""

    read_gb_s: float
    gemm_gflop_s: float
    torch_gemm_gflop_s: float

    def best(self, other: Floors) -> Floors:
        """The higher rates of two times at which they were measured: a disturbance ends."""
        return Floors(
            max(self.read_gb_s, other.read_gb_s),
            max(self.gemm_gflop_s, other.gemm_gflop_s),
            max(self.torch_gemm_gflop_s, other.torch_gemm_gflop_s),
        )

    def decode_ms(self, config: ModelConfig, batch: int, bytes_per_weight: float = 4.0) -> float:
        """Below this no step of `batch` sequences ends: weights read once, products computed."""
        weights = num_step_weights(config)
        read_s = weights * bytes_per_weight / self.read_gb_s / 1e9
        return max(read_s, 2 * weights * batch / self.gemm_gflop_s / 1e9) * 1e3

    def prefill_ms(self, config: ModelConfig, num_tokens: int) -> float:
        """The products of all layers and of attention's two, half of them masked; head: one row."""
        head = config.vocab_size * config.hidden_size
        products = 2 * (num_step_weights(config) - head) * num_tokens + 2 * head
        width = config.num_layers * config.num_heads * config.head_dim
        return (products + 2 * num_tokens**2 * width) / self.gemm_gflop_s / 1e6


def measure_floors(threads: int) -> Floors:
    """Takes a second or two. Raises NativeUnavailable without a compiler."""
    torch.set_num_threads(threads)
    library = native.find()
    data = room(_READ_BYTES // 4, torch.float32).fill_(1.0)
    read_s = _best_s(lambda: library.baton_read(data.data_ptr(), data.numel(), threads))
    m, n, k = _GEMM
    x, weight = torch.randn(m, k), torch.randn(n, k)
    packed = PackedMatrix(weight, None, "float32")
    flops = 2 * m * n * k / 1e9
    return Floors(
        _READ_BYTES / read_s / 1e9,
        flops / _best_s(lambda: packed(x)),
        flops / _best_s(lambda: torch.nn.functional.linear(x, weight)),
    )


def _best_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPETITIONS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
