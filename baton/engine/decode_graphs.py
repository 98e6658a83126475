"""Whole decode steps in buffers that stay where they are: on a GPU captured as CUDA graphs.

A step of single tokens is copied into the buffers of the next larger bucket and runs there. On a
CPU nothing is captured, and the same code runs the forward pass; that is how it is tested.
Capturing and replaying have not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from baton.engine.buckets import bucket_of, bucket_sizes
from baton.engine.model.batch import Batch
from baton.engine.tensor_arena import TensorArena


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
        self, transformer: ForwardLike, arena: TensorArena, limits: tuple[int, int], plan: MakePlan
    ) -> None:
        """`limits`: most sequences in a step, and the longest context in tokens."""
        most, context_len = limits
        self._transformer = transformer
        self._arena = arena
        self._make_plan = plan
        self._width = arena.layout.num_blocks(context_len)
        self._sizes = bucket_sizes(most)
        self._buckets: dict[int, _Bucket] = {}

    def forward(self, batch: Batch) -> Tensor | None:
        """Logits [B, vocab] of a decode step, valid until the next; None: it is not one."""
        num = len(batch.query_lens)
        size = bucket_of(num, self._sizes)
        if size is None or len(batch.sample_rows) != num or len(batch.token_ids) != num:
            return None
        if size not in self._buckets:
            self._buckets[size] = _Bucket(size, self._width, self._arena, self._make_plan(size))
        bucket = self._buckets[size]
        bucket.fill(batch)
        return bucket.run(self._transformer)[:num]


class _Bucket:
    """Buffers for steps of up to `size` sequences, and the graph that reads them."""

    def __init__(
        self, size: int, width: int, arena: TensorArena, plan: AttentionPlanLike | None
    ) -> None:
        device = arena.device
        self._size = size
        self._kv = arena.with_spare
        self._plan = plan
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None
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

    def fill(self, batch: Batch) -> None:
        """Copies a step into the buffers. Rows of an earlier, larger step become unused."""
        num = len(batch.query_lens)
        for name in _FILLED:
            target, source = getattr(self._batch, name), getattr(batch, name)
            if name == "block_tables":
                target[:num, : source.shape[1]].copy_(source, non_blocking=True)
            else:
                target[:num].copy_(source, non_blocking=True)
            target[num:].copy_(getattr(self._unused, name)[num:])
        lens = batch.host_context_lens + (1,) * (self._size - num)
        if self._plan is not None:
            self._plan.update(lens)
        plans = {} if self._plan is None else self._plan.plans
        self._batch = replace(self._batch, host_context_lens=lens, plans=plans)

    def run(self, transformer: ForwardLike) -> Tensor:
        """Logits [size, vocab]."""
        if self._kv.device.type != "cuda":
            return transformer.forward(self._batch, self._kv)
        if self._graph is None:
            self._capture(transformer)
        assert self._graph is not None
        assert self._logits is not None
        self._graph.replay()
        return self._logits

    def _capture(self, transformer: ForwardLike) -> None:
        """Runs once, so that kernels compile and libraries choose, then captures."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            transformer.forward(self._batch, self._kv)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = transformer.forward(self._batch, self._kv)


_FILLED = (
    *("token_ids", "positions", "slot_blocks", "slot_offsets"),
    *("block_tables", "context_lens"),
)
