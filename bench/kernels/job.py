"""One op at one shape: what is timed, and what it must at least move and compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model's sizes, and how much of it is at work."""

    name: str
    hidden: int
    inner: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    vocab_size: int
    block_size: int
    rows: tuple[int, int]
    """Tokens of a decode step and of a prefill."""
    contexts: tuple[tuple[int, int], ...]
    """Sequences and tokens of each, for decode."""
    pack_tokens: int
    """Of the sequence that is handed off."""
    experts: tuple[int, int, int, int]
    """Number, number chosen, hidden and inner size of a layer of bfloat16 experts."""
    narrow_experts: tuple[int, int, int, int]
    """The same of a layer of MXFP4 experts."""
    expert_rows: tuple[int, ...]
    mla: tuple[int, int, int]
    """Heads, sequences, tokens of each."""


CPU_SIZES = Sizes(
    name="Qwen3-0.6B; experts of 1,024 by 768; MLA of 16 heads",
    hidden=1024,
    inner=3072,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    num_layers=28,
    vocab_size=151_936,
    block_size=16,
    rows=(8, 512),
    contexts=((1, 2048), (8, 512)),
    pack_tokens=512,
    experts=(16, 4, 1024, 768),
    narrow_experts=(16, 4, 1024, 768),
    expert_rows=(1, 8),
    mla=(16, 4, 1024),
)
"""Small enough for a machine of two cores."""

GPU_SIZES = Sizes(
    name="Qwen3-8B; experts of Qwen3-30B-A3B and gpt-oss-120b; MLA of DeepSeek-V3",
    hidden=4096,
    inner=12_288,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    num_layers=36,
    vocab_size=131_072,
    block_size=64,
    rows=(32, 8192),
    contexts=((1, 8192), (32, 2048), (32, 8192)),
    pack_tokens=8192,
    experts=(128, 8, 2048, 768),
    narrow_experts=(128, 4, 2880, 2880),
    expert_rows=(1, 8, 32, 128),
    mla=(128, 32, 4096),
)


@dataclass(frozen=True, slots=True)
class Job:
    """What is timed. Made only when its turn comes: some fill gigabytes."""

    arguments: tuple[Any, ...]
    num_bytes: float
    """Read once and written once, at least."""
    flops: float = 0.0
    """Of matrix products and attention; element-wise work is counted as free."""
    composed: Call | None = None
    """Torch's own composition on the same arguments."""
    result: Callable[[Any], Tensor | None] = lambda returned: returned
    """What ours and torch's must have alike, from what they return; None: not comparable."""
    is_on_host: bool = False
    """Whether the op's results are read by the host: no CUDA graph can hold it."""
    composed_is_on_host: bool = False
    """The same of torch's composition; implied by `is_on_host`."""
    peers: dict[str, Call] = field(default_factory=dict)
    """Other kernels on the same problem, by name."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A job to come."""

    op: str
    shape: str
    make: Callable[[], Job]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and on what a run measures."""

    device: str
    dtype: torch.dtype
    sizes: Sizes

    def numbers(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal numbers on the device."""
        return torch.randn(shape, device=self.device, dtype=dtype or self.dtype)


def size_of(*tensors: Tensor) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)
