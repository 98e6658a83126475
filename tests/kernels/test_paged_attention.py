"""What attention must not depend on."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch

import kernels
from kernels import native
from kernels.launch import is_interpreted
from kernels.paged_attention.cases import Shape, make

SHAPE = Shape(query_lens=(1, 3, 1, 5, 1, 1), context_lens=(8, 3, 1, 17, 9, 40))


# `test_interpreter.py` runs these tests in Triton's interpreter as well.
RUNNABLE = [
    name
    for name in kernels.IMPLEMENTATIONS["paged_attention"]
    if name != "cuda" or is_interpreted()
]


@pytest.fixture(params=RUNNABLE)
def run(request: pytest.FixtureRequest) -> Any:
    if request.param == "native" and not native.is_available():
        pytest.skip("needs a C++ compiler")
    return import_module(f"kernels.paged_attention.{request.param}").run


@pytest.mark.parametrize("block_seed", [6, 7, 8])
def test_it_does_not_matter_which_blocks_hold_a_sequence(run: Any, block_seed: int) -> None:
    expected = run(*make("cpu", SHAPE))

    moved = run(*make("cpu", replace(SHAPE, block_seed=block_seed, num_blocks=200)))

    assert torch.equal(moved, expected)


@pytest.mark.parametrize("garbage", [0.0, 1e30, torch.inf])
def test_unused_slots_do_not_matter(run: Any, garbage: float) -> None:
    expected = run(*make("cpu", SHAPE))  # on a background of NaN
    q, kv, batch, scale, _ = make("cpu", SHAPE)
    kv[kv.isnan()] = garbage

    assert torch.equal(run(q, kv, batch, scale), expected)


def test_attention_reads_the_arena_and_leaves_it(run: Any) -> None:
    q, kv, batch, scale, _ = make("cpu", SHAPE)
    before = kv.clone()

    run(q, kv, batch, scale)

    assert torch.equal(kv.nan_to_num(), before.nan_to_num())


def test_a_sequence_alone_gets_what_it_gets_in_a_batch(run: Any) -> None:
    q, kv, batch, scale, _ = make("cpu", SHAPE)
    together = run(q, kv, batch, scale).split(SHAPE.query_lens)

    for index, rows in enumerate(q.split(SHAPE.query_lens)):
        alone = kernels.paged_attention.AttentionBatch(
            block_tables=batch.block_tables[index : index + 1],
            query_start=torch.tensor([0, len(rows)], dtype=torch.int32),
            context_lens=batch.context_lens[index : index + 1],
            query_lens=(len(rows),),
            host_context_lens=batch.host_context_lens[index : index + 1],
        )

        # Padding to a longer neighbour changes the order of float32 sums, nothing else.
        torch.testing.assert_close(run(rows, kv, alone, scale), together[index])


def test_layers_of_one_step_share_a_plan_and_not_their_values(run: Any) -> None:
    q, kv, batch, scale, _ = make("cpu", SHAPE)
    first = run(q, kv, batch, scale)

    second = run(q, kv * 2, batch, scale)

    fresh = run(q, kv * 2, replace(batch, plans={}), scale)
    assert torch.equal(second, fresh)
    assert not torch.equal(second, first)


def test_chunks_give_what_the_whole_prompt_gives(run: Any) -> None:
    whole = Shape(query_lens=(21,), context_lens=(21,))
    q, kv, _, scale, _ = make("cpu", whole)
    expected = run(*make("cpu", whole))

    parts = []
    for start, stop in ((0, 7), (7, 8), (8, 20), (20, 21)):
        _, _, batch, *_ = make("cpu", Shape((stop - start,), (stop,)))
        tables = make("cpu", whole)[2].block_tables
        parts.append(run(q[start:stop], kv, replace(batch, block_tables=tables), scale))

    torch.testing.assert_close(torch.cat(parts), expected)


@pytest.fixture
def _products_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the interpreter treat all rows of a product alike, as tensor cores do; BLAS doesn't."""
    if not is_interpreted():
        return
    import numpy as np
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(self: Any, a: Any, b: Any, d: Any, *precision: Any) -> Any:
        rows = [np.matmul(row[None], b.data, dtype=d.data.dtype) for row in a.data]
        return TensorHandle(np.concatenate(rows) + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)


CHUNKINGS = {
    "whole": (70,),
    "around pieces": (63, 2, 5),
    "single tokens": (67, 1, 1, 1),
}


VARIED = {"window": 30, "has_sinks": True, "soft_cap": 5.0}


@pytest.mark.usefixtures("_products_by_row")
@pytest.mark.parametrize(
    ("options", "chunking"),
    [
        *(pytest.param(VARIED, chunks, id=f"all-{name}") for name, chunks in CHUNKINGS.items()),
        pytest.param({}, CHUNKINGS["around pieces"], id="plain-around pieces"),
    ],
)
def test_fixed_pieces_give_the_same_bits_for_any_chunks_and_neighbours(
    run: Any, options: dict[str, Any], chunking: tuple[int, ...]
) -> None:
    sizes = {"block_size": 16, "num_heads": 2, "num_kv_heads": 1}
    whole = Shape((70,), (70,), **sizes, piece_len=64, **options)
    q, kv, batch, scale, variant = make("cpu", whole)
    expected = run(q, kv, batch, scale, variant)
    neighbours = Shape((3, 0, 1), (5, 0, 9), **sizes)
    other_q, other_kv, other, *_ = make("cpu", neighbours)
    tables = torch.zeros((4, batch.block_tables.shape[1]), dtype=torch.int32)
    tables[0] = batch.block_tables
    tables[1:, : other.block_tables.shape[1]] = other.block_tables + len(kv)

    parts, start = [], 0
    for chunk in chunking:
        lens = (chunk, *neighbours.query_lens)
        contexts = (start + chunk, *neighbours.context_lens)
        mixed = kernels.paged_attention.AttentionBatch(
            block_tables=tables,
            query_start=torch.tensor((0, *lens)).cumsum(0).int(),
            context_lens=torch.tensor(contexts, dtype=torch.int32),
            query_lens=lens,
            host_context_lens=contexts,
            piece_len=64,
        )
        rows = torch.cat((q[start : start + chunk], other_q))
        parts.append(run(rows, torch.cat((kv, other_kv)), mixed, scale, variant)[:chunk])
        start += chunk

    assert torch.equal(torch.cat(parts), expected)
