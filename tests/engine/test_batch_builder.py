"""Batches: every tensor against its definition."""

from __future__ import annotations

from array import array

import torch
from fake_model import spec_of

from baton.engine.batch_builder import BatchBuilder
from baton.engine.exchange import Exchange
from baton.engine.sequence import Sequence


def sequence(token_ids: list[int], blocks: list[int], num_computed: int) -> Sequence:
    spec = spec_of("s", token_ids)
    made = Sequence(spec, (0, 0), b"", frozenset(), 0, array("I", token_ids), num_computed)
    made.table.extend(blocks)
    return made


def test_chunks_lie_end_to_end_with_their_places() -> None:
    decode = sequence([9, 8, 7, 6, 5, 4], [3, 1], num_computed=5)
    chunk = sequence([10, 11, 12, 13, 14, 15, 16, 17, 18], [7, 0, 2], num_computed=2)

    batch = BatchBuilder(4, Exchange(torch.device("cpu"))).build({decode: 1, chunk: 4})

    assert batch.token_ids.tolist() == [4, 12, 13, 14, 15]
    assert batch.positions.tolist() == [5, 2, 3, 4, 5]
    assert batch.slot_blocks.tolist() == [1, 7, 7, 0, 0]
    assert batch.slot_offsets.tolist() == [1, 2, 3, 0, 1]
    assert batch.block_tables.tolist() == [[3, 1], [7, 0]]
    assert batch.query_start.tolist() == [0, 1, 5]
    assert batch.context_lens.tolist() == [6, 6]
    assert batch.sample_rows.tolist() == [0]
    assert (batch.query_lens, batch.host_context_lens) == ((1, 4), (6, 6))


def test_tables_are_padded_with_zero_and_types_are_the_contracts() -> None:
    short = sequence([5], [6], num_computed=0)
    long = sequence(list(range(2, 12)), [1, 2, 3], num_computed=0)

    batch = BatchBuilder(4, Exchange(torch.device("cpu"))).build({short: 1, long: 10})

    assert batch.block_tables.tolist() == [[6, 0, 0], [1, 2, 3]]
    assert batch.sample_rows.tolist() == [0, 10]
    for tensor in (batch.token_ids, batch.positions, batch.slot_blocks, batch.slot_offsets):
        assert tensor.dtype is torch.int64
        assert tensor.is_contiguous()
    for tensor in (batch.block_tables, batch.query_start, batch.context_lens):
        assert tensor.dtype is torch.int32
    assert batch.sample_rows.dtype is torch.int64


def test_a_batch_without_rows_to_draw_from_has_an_empty_list_of_them() -> None:
    batch = BatchBuilder(4, Exchange(torch.device("cpu"))).build(
        {sequence(list(range(9)), [0, 1, 2], 0): 5}
    )

    assert batch.sample_rows.shape == (0,)
    assert batch.sample_rows.dtype is torch.int64
