"""Baton's engine on one device, whole or with a feature left out, asked for decode and prefill."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from baton.blocks import KvLayout
from baton.engine.decode_graphs import DecodeGraphs
from baton.engine.engine import Engine
from baton.engine.exchange import Exchange
from baton.engine.model.config import ModelConfig
from baton.engine.model.transformer import Weights
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, NewToken, SequenceSpec
from baton.request import SamplingParams
from baton.tokens import TokenIds
from bench.gpu.shapes import apart, model_of
from kernels import Ops

_WARM_STEPS = 4
_BLOCK_SIZE = 64
SAMPLING = SamplingParams(temperature=0.8, top_p=0.95, seed=1, max_tokens=4096, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Features:
    """What a step on a GPU is made of. Without one, the rest stays as it is."""

    graphs: bool = True
    """Decode steps in static buffers; on a GPU captured."""
    buckets: bool = True
    """Sizes of static buffers are shared; without, there is one for just this batch."""
    lookahead: bool = True
    fused_weights: bool = True
    """One product for query, key and value, one for gate and up."""
    pinned_copies: bool = True
    device_sampling: bool = True


WHOLE = Features()
_ABLATIONS = {
    "without CUDA graphs": replace(WHOLE, graphs=False),
    "without lookahead": replace(WHOLE, lookahead=False),
    "without graphs and lookahead": replace(WHOLE, graphs=False, lookahead=False),
    "without fused weights": replace(WHOLE, fused_weights=False),
    "without pinned copies": replace(WHOLE, pinned_copies=False),
    "without sampling on the device": replace(WHOLE, device_sampling=False),
    "without buckets": replace(WHOLE, buckets=False),
}


def ablations(device: str) -> dict[str, Features]:
    """What can be left out there. On a CPU graphs are static buffers and nothing else."""
    if device == "cuda":
        return _ABLATIONS
    gpu_only = ("without pinned copies", "without sampling on the device")
    return {name: features for name, features in _ABLATIONS.items() if name not in gpu_only}


@dataclass(frozen=True, slots=True)
class Place:
    """Where it runs and how large it may get."""

    device: str
    dtype: torch.dtype
    max_batch: int
    context_len: int
    max_batch_tokens: int
    kv_bytes: int


class Subject:
    """Weights and blocks that all engines of a run share."""

    def __init__(self, config: ModelConfig, weights: Weights, ops: Ops, place: Place) -> None:
        self._config = config
        self._ops = ops
        self._place = place
        self._models = {
            True: model_of(config, weights, ops),
            False: model_of(config, apart(config, weights), ops),
        }
        shape = (config.num_layers, config.num_kv_heads, config.head_dim)
        name = str(place.dtype).removeprefix("torch.")
        self._layout = KvLayout(_BLOCK_SIZE, *shape, name, "bench")
        wanted = place.max_batch * self._layout.num_blocks(place.context_len)
        num_blocks = min(wanted, place.kv_bytes // self._layout.block_bytes)
        self._arena = TensorArena(self._layout, num_blocks, place.device)
        self._num_asked = 0

    @property
    def ablations(self) -> dict[str, Features]:
        """What can be left out here."""
        return ablations(self._place.device)

    def most(self, context: int) -> int:
        """Sequences of so many tokens that the blocks hold."""
        # Each of them grows by a block while it is measured.
        return self._arena.num_blocks // self._layout.num_blocks(context + _BLOCK_SIZE)

    def engine(self, features: Features, batch: int) -> Engine:
        """A new engine without a sequence."""
        place = self._place
        limits = (place.max_batch if features.buckets else batch, place.context_len)
        sizes = EngineConfig(
            self._arena.num_blocks,
            _BLOCK_SIZE,
            max_batch_tokens=place.max_batch_tokens,
            max_sequences=place.max_batch,
            context_len=place.context_len,
            looks_ahead=features.lookahead,
        )
        exchange = Exchange(self._arena.device, is_pinned=features.pinned_copies)
        runner = ModelRunner(
            self._models[features.fused_weights],
            self._arena,
            self._graphs(features, limits, exchange) if features.graphs else None,
            exchange,
            draws_on_device=features.device_sampling,
        )
        return Engine(runner, sizes, self._arena)

    def decode(self, engine: Engine, batch: int, context: int, num_steps: int) -> list[float]:
        """Milliseconds of steps in which `batch` sequences behind `context` tokens draw one each.

        What the blocks hold is left as it is: it takes as long to read as anything else.
        """
        specs = [self._spec(context, receive=True) for _ in range(batch)]
        names = [spec.sequence_id for spec in specs]
        for spec in specs:
            engine.add(spec)
        num_reserved = 0
        while num_reserved < batch:
            num_reserved += len(engine.step().reserved)
        for name in names:
            engine.resume(name, context, NewToken(name, 1))
        found: list[float] = []
        while len(found) < _WARM_STEPS + num_steps:
            began = time.perf_counter()
            num_tokens = sum(token.token_id >= 0 for token in engine.step().tokens)
            if num_tokens >= batch:
                found.append((time.perf_counter() - began) * 1e3)
        self._end(engine, names)
        return found[_WARM_STEPS:]

    def prefill(self, engine: Engine, num_tokens: int) -> float:
        """Milliseconds from a prompt to its first token, on an idle engine."""
        spec = self._spec(num_tokens)
        began = time.perf_counter()
        engine.add(spec)
        while not any(t.sequence_id == spec.sequence_id for t in engine.step().tokens):
            pass
        took = (time.perf_counter() - began) * 1e3
        self._end(engine, [spec.sequence_id])
        return took

    def _graphs(
        self, features: Features, limits: tuple[int, int], exchange: Exchange
    ) -> DecodeGraphs:
        config, ops, place = self._config, self._ops, self._place
        heads = (config.num_heads, config.num_kv_heads, config.head_dim)
        return DecodeGraphs(
            self._models[features.fused_weights].transformer,
            self._arena,
            limits,
            lambda num: ops.static_attention_plan(num, heads, place.dtype, place.device),
            ops.device_sample if features.device_sampling else None,
            exchange,
        )

    def _spec(self, num_tokens: int, *, receive: bool = False) -> SequenceSpec:
        """A prompt that no other shares a block with."""
        self._num_asked += 1
        vocab_size, name = self._config.vocab_size, str(self._num_asked)
        ids = [(self._num_asked * 31 + i * 7919) % vocab_size for i in range(num_tokens)]
        return SequenceSpec(name, TokenIds.of(ids), num_tokens, SAMPLING, receive=receive)

    def _end(self, engine: Engine, names: list[str]) -> None:
        for name in names:
            engine.cancel(name)
        while engine.has_work:
            engine.step()
