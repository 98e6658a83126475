"""Builds a step's batch: one packed copy to the device for each kind of number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from baton.engine.exchange import Exchange
from baton.engine.model.batch import Batch
from baton.engine.sequence import Sequence


class LastDraw(Protocol):
    """The tokens that the last step drew, where they are."""

    @property
    def rows(self) -> Mapping[Sequence, int]:
        """Each sequence's row of `token_ids`."""

    @property
    def token_ids(self) -> Tensor:
        """[S] int64."""


class BatchBuilder:
    """Lays chunks of sequences end to end, in the order given."""

    def __init__(self, block_size: int, exchange: Exchange) -> None:
        self._block_size = block_size
        self._to_device = exchange.up

    def build(self, chunks: Mapping[Sequence, int], last: LastDraw | None = None) -> Batch:
        """The batch of `chunks`; rows are drawn from sequences that catch up with it.

        Tokens that the host has not read come from the draw of the `last` step.
        """
        starts = np.array([sequence.num_computed for sequence in chunks], dtype=np.int64)
        lens = np.array(list(chunks.values()), dtype=np.int64)
        ends = starts + lens
        query_start = np.zeros(len(lens) + 1, dtype=np.int64)
        np.cumsum(lens, out=query_start[1:])
        tables = self._tables(chunks, ends)

        packed = np.empty((4, int(query_start[-1])), dtype=np.int64)
        token_ids, positions, slot_blocks, slot_offsets = packed
        token_ids[:] = _tokens(chunks)
        positions[:] = np.arange(packed.shape[1])
        positions += np.repeat(starts - query_start[:-1], lens)
        np.remainder(positions, self._block_size, out=slot_offsets)
        rows = np.repeat(np.arange(len(lens)), lens)
        slot_blocks[:] = tables[rows, positions // self._block_size]

        draws = np.array([n == sequence.num_uncomputed for sequence, n in chunks.items()])
        spans = np.concatenate([query_start, ends]).astype(np.int32)
        device_packed, device_spans = self._to_device(packed), self._to_device(spans)
        self._fill_unread(device_packed[0], chunks, query_start, last)
        return Batch(
            token_ids=device_packed[0],
            positions=device_packed[1],
            slot_blocks=device_packed[2],
            slot_offsets=device_packed[3],
            block_tables=self._to_device(tables),
            query_start=device_spans[: len(lens) + 1],
            context_lens=device_spans[len(lens) + 1 :],
            sample_rows=self._to_device(query_start[1:][draws] - 1),
            query_lens=tuple(lens.tolist()),
            host_context_lens=tuple(ends.tolist()),
        )

    def _tables(self, chunks: Mapping[Sequence, int], ends: NDArray[Any]) -> NDArray[np.int32]:
        counts: list[int] = (-(-ends // self._block_size)).tolist()
        tables = np.zeros((len(counts), max(counts)), dtype=np.int32)
        for row, (sequence, count) in enumerate(zip(chunks, counts, strict=True)):
            tables[row, :count] = sequence.table[:count]
        return tables

    def _fill_unread(
        self,
        token_ids: Tensor,
        chunks: Mapping[Sequence, int],
        query_start: NDArray[np.int64],
        last: LastDraw | None,
    ) -> None:
        """Copies tokens from the last draw, on the device."""
        ends = [
            (index, sequence)
            for index, (sequence, n) in enumerate(chunks.items(), 1)
            if sequence.num_unread and n == sequence.num_uncomputed
        ]
        if not ends:
            return
        assert last is not None, "somebody drew what is unread"
        rows = last.rows
        moves = [(query_start[end] - 1, rows[sequence]) for end, sequence in ends]
        places, sources = self._to_device(np.array(moves, dtype=np.int64).T.copy())
        token_ids.index_copy_(0, places, last.token_ids.index_select(0, sources))


def _tokens(chunks: Mapping[Sequence, int]) -> list[int]:
    tokens: list[int] = []
    for sequence, n in chunks.items():
        if n == 1:
            tokens.append(sequence.token_ids[sequence.num_computed])
        else:
            tokens += sequence.token_ids[sequence.num_computed : sequence.num_computed + n]
    return tokens
