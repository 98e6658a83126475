"""Whole decode steps in buffers that stay where they are: on a GPU captured as CUDA graphs.

A step of single tokens is copied into the buffers of the next larger bucket and runs there: one
graph for the forward pass, one behind it for draws that numbers describe. On a CPU nothing is
captured, and the same code runs eagerly; that is how it is tested. Capturing and replaying have not
run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baton.engine.buckets import bucket_of, bucket_sizes
from baton.engine.exchange import Exchange
from baton.engine.model.batch import Batch
from baton.engine.tensor_arena import TensorArena
from kernels.sample import DeviceSample, PackedRows


class ForwardLike(Protocol):
    """A forward pass over paged keys and values."""

    def forward(self, batch: Batch, kv: Tensor) -> Tensor:
        """Logits [S, vocab] of the batch's sample rows."""


class AttentionPlanLike(Protocol):
    """A plan of attention whose tensors stay; see `kernels.paged_attention`."""

    @property
    def plans(self) -> dict[Hashable, object]: ...

    def update(self, context_lens: tuple[int, ...]) -> None: ...


class MakePlan(Protocol):
    """Makes a plan for so many sequences; None where implementations plan by themselves."""

    def __call__(self, num_sequences: int, /) -> AttentionPlanLike | None: ...


class DecodeGraphs:
    """Runs steps in which every sequence computes one token and draws the next."""

    def __init__(
        self,
        transformer: ForwardLike,
        arena: TensorArena,
        limits: tuple[int, int],
        plan: MakePlan,
        device_sample: DeviceSample | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        """`limits`: most sequences in a step, and the longest context in tokens."""
        most, context_len = limits
        self._parts = _Parts(transformer, arena, exchange or Exchange(arena.device), device_sample)
        self._make_plan = plan
        self._width = arena.layout.num_blocks(context_len)
        self._sizes = bucket_sizes(most)
        self._buckets: dict[int, StaticDecode] = {}

    def prepare(self) -> None:
        """Makes all buckets ready, the largest first: the others reuse what its graph takes.

        Takes the blocks of nobody, but for the arena's spare one.
        """
        with torch.inference_mode():
            for size in reversed(self._sizes):
                self._bucket(size).rehearse()

    def forward(self, batch: Batch) -> StaticDecode | None:
        """A decode step, its forward pass launched; good until the next. None: it is not one."""
        num = len(batch.query_lens)
        size = bucket_of(num, self._sizes)
        if size is None or len(batch.sample_rows) != num or len(batch.token_ids) != num:
            return None
        bucket = self._bucket(size)
        bucket.fill(batch)
        bucket.forward()
        return bucket

    def _bucket(self, size: int) -> StaticDecode:
        if size not in self._buckets:
            plan = self._make_plan(size)
            self._buckets[size] = StaticDecode(size, self._width, self._parts, plan)
        return self._buckets[size]


@dataclass(frozen=True, slots=True)
class _Parts:
    """What all buckets share."""

    transformer: ForwardLike
    arena: TensorArena
    exchange: Exchange
    device_sample: DeviceSample | None


class StaticDecode:
    """Buffers for decode steps of up to `size` sequences, and the graphs that read them."""

    def __init__(
        self, size: int, width: int, parts: _Parts, plan: AttentionPlanLike | None
    ) -> None:
        arena = parts.arena
        device = arena.device
        self._size = size
        self._num = 0
        self._parts = parts
        self._plan = plan
        rows = torch.arange(size + 1, device=device)
        # Unused rows are a first token that lies in the arena's spare block.
        self._unused = Batch(
            token_ids=torch.zeros_like(rows[1:]),
            positions=torch.zeros_like(rows[1:]),
            slot_blocks=torch.full_like(rows[1:], arena.num_blocks),
            slot_offsets=rows[:-1] % arena.layout.block_size,
            block_tables=torch.full(
                (size, width), arena.num_blocks, dtype=torch.int32, device=device
            ),
            query_start=rows.int(),
            context_lens=torch.ones(size, dtype=torch.int32, device=device),
            sample_rows=rows[:-1],
            query_lens=(1,) * size,
            host_context_lens=(1,) * size,
        )
        own: dict[str, Any] = {name: getattr(self._unused, name).clone() for name in _FILLED}
        self._batch = replace(self._unused, **own)
        # Unused rows draw greedily. No row has masks or lists.
        self._rows = PackedRows(
            torch.zeros(6, size, device=device),
            torch.zeros(4, size, dtype=torch.int64, device=device),
            torch.full((2, size), -1, dtype=torch.int32, device=device),
            *(None, None, None, None),
        )
        self._forward = _Replay(self._run_forward, device)
        self._draw = _Replay(self._run_draw, device)

    @property
    def logits(self) -> Tensor:
        """[B, vocab] of the step that was filled in, once `forward` was called."""
        return self._forward.result[: self._num]

    def rehearse(self) -> None:
        """Runs everything on unused rows, so that all is compiled and captured."""
        self._plan_for((1,) * self._size)
        self.forward()
        if self._parts.device_sample is not None:
            self._draw()

    def fill(self, batch: Batch) -> None:
        """Copies a step into the buffers. Rows that an earlier, larger step used become unused."""
        num, before = len(batch.query_lens), self._num
        for name in _FILLED:
            target, source = getattr(self._batch, name), getattr(batch, name)
            if name == "block_tables":
                target[:num, : source.shape[1]].copy_(source, non_blocking=True)
            else:
                target[:num].copy_(source, non_blocking=True)
            if num < before:
                target[num:before].copy_(getattr(self._unused, name)[num:before])
        self._num = num
        self._plan_for(batch.host_context_lens + (1,) * (self._size - num))

    def forward(self) -> None:
        """Launches the forward pass."""
        self._forward()

    def draw(self, floats: NDArray[np.float32], counts: NDArray[np.int64]) -> Tensor:
        """See `StaticStep`. Valid until the next draw; rows behind those given draw for nobody."""
        num = floats.shape[1]
        self._parts.exchange.up_into(self._rows.floats[:, :num], floats)
        self._parts.exchange.up_into(self._rows.counts[:, :num], counts)
        self._draw()
        return self._draw.result[:num]

    def _plan_for(self, lens: tuple[int, ...]) -> None:
        if self._plan is not None:
            self._plan.update(lens)
        plans = {} if self._plan is None else self._plan.plans
        self._batch = replace(self._batch, host_context_lens=lens, plans=plans)

    def _run_forward(self) -> Tensor:
        return self._parts.transformer.forward(self._batch, self._parts.arena.with_spare)

    def _run_draw(self) -> Tensor:
        assert self._parts.device_sample is not None
        return self._parts.device_sample.draw(self._forward.result, self._rows)


class _Replay:
    """A piece of work that reads and writes the same memory each time; on a GPU a CUDA graph."""

    def __init__(self, work: Callable[[], Tensor], device: torch.device) -> None:
        self._work = work
        self._is_captured = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None

    @property
    def result(self) -> Tensor:
        """What the last call left."""
        assert self._result is not None, "nothing ran yet"
        return self._result

    def __call__(self) -> None:
        """Launches the work."""
        if not self._is_captured:
            self._result = self._work()
            return
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        self._graph.replay()

    def _capture(self) -> None:
        """Runs once, so that kernels compile and libraries choose, then captures."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy blocks meanwhile: what they do is none of the capture's business.
        with torch.cuda.graph(graph, pool=_pool(), capture_error_mode="thread_local"):
            self._result = self._work()
        self._graph = graph


@cache
def _pool() -> Any:
    """Memory that all graphs share: they run one after the other, never at once."""
    return torch.cuda.graph_pool_handle()


_FILLED = (
    *("token_ids", "positions", "slot_blocks", "slot_offsets"),
    *("block_tables", "context_lens"),
)
