"""Plans of paged attention on a GPU: every token meets every key that it sees, once."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.paged_attention.plan import Chunks, Heads, Tile, WorkList, max_counts, plan

chunks = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 3000)).map(lambda pair: (pair[0], sum(pair))),
    max_size=12,
)
heads = st.builds(
    lambda group, num_kv_heads, window: Heads(group * num_kv_heads, num_kv_heads, window),
    st.integers(1, 16),
    st.integers(1, 8),
    st.none() | st.integers(1, 500),
)
tiles = st.builds(Tile, st.sampled_from([16, 64, 128]), st.sampled_from([32, 64]), st.just(264))
piece_lens = st.none() | st.sampled_from([64, 256, 1024])


def _plan(
    pairs: list[tuple[int, int]], heads: Heads, tile: Tile, piece_len: int | None = None
) -> WorkList:
    return plan(Chunks.of(*([p[i] for p in pairs] for i in (0, 1))), heads, tile, piece_len)


def _items(work: WorkList) -> list[dict[str, int]]:
    names = ("sequence", "row", "num_tokens", "position", "start", "end", "slot", "_")
    return [dict(zip(names, item, strict=True)) for item in work.items.tolist()]


@given(chunks, heads, tiles, piece_lens)
def test_each_token_meets_each_key_that_it_sees_exactly_once(pairs, heads, tile, piece_len) -> None:
    met: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for item in _items(_plan(pairs, heads, tile, piece_len)):
        assert item["start"] < item["end"]
        assert item["start"] % tile.num_keys == 0
        assert item["num_tokens"] * heads.group <= tile.num_rows
        for token in range(item["num_tokens"]):
            met[item["row"] + token].append((item["start"], item["end"]))

    row = 0
    for query_len, context_len in pairs:
        for position in range(context_len - query_len, context_len):
            ranges = sorted(met.pop(row))
            first = 0 if heads.window is None else max(0, position - heads.window + 1)
            assert ranges[0][0] <= first
            assert ranges[-1][1] > position
            assert all(a[1] == b[0] for a, b in pairwise(ranges))
            row += 1
    assert met == {}


@given(chunks, heads, tiles, piece_lens)
def test_parts_and_merges_belong_together(pairs, heads, tile, piece_len) -> None:
    work = _plan(pairs, heads, tile, piece_len)

    items = _items(work)
    slots = sorted(item["slot"] for item in items if item["slot"] >= 0)
    assert slots == list(range(work.num_slots))
    split = {item["slot"]: item for item in items}
    for row, num_tokens, first, count in work.merges.tolist():
        assert count > 1 or piece_len
        parts = [split[slot] for slot in range(first, first + count)]
        assert {(part["row"], part["num_tokens"]) for part in parts} == {(row, num_tokens)}
        # In the order of keys: merging is then the same sum for the same pieces.
        assert [part["start"] for part in parts] == sorted(part["start"] for part in parts)
    assert sum(work.merges[:, 3]) == work.num_slots


@given(chunks, heads, st.sampled_from([64, 256]))
def test_fixed_pieces_end_at_the_same_keys_in_any_batch(pairs, heads, piece_len) -> None:
    tile = Tile(64, 64, 1)

    for item in _items(_plan(pairs, heads, tile, piece_len)):
        if item["start"] % piece_len:  # behind the edge of a window
            assert heads.window is not None
        last = item["position"] + item["num_tokens"]
        assert item["end"] == min(last, (item["start"] // piece_len + 1) * piece_len)


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=64), heads)
def test_a_step_of_single_tokens_fits_its_static_buffers(context_lens, heads) -> None:
    tile = Tile(16, 64, 264)

    work = _plan([(1, n) for n in context_lens], heads, tile)

    most_items, most_slots = max_counts(len(context_lens), heads, tile)
    assert len(work.items) <= most_items
    assert work.num_slots <= most_slots


@pytest.mark.parametrize(("num_sequences", "context_len"), [(1, 8192), (3, 8192), (8, 2048)])
def test_few_sequences_are_cut_so_that_all_programs_run_at_once(
    num_sequences: int, context_len: int
) -> None:
    heads, tile = Heads(32, 8), Tile(16, 64, 264)

    work = _plan([(1, context_len)] * num_sequences, heads, tile)

    assert 0.7 * 264 <= len(work.items) * 8 <= 264


def test_one_long_sequence_among_many_is_cut_and_the_others_are_not() -> None:
    work = _plan([(1, 500)] * 63 + [(1, 60_000)], Heads(32, 8), Tile(16, 64, 264))

    pieces = Counter(item["sequence"] for item in _items(work))
    assert pieces[63] > 10
    assert all(pieces[sequence] == 1 for sequence in range(63))


def test_a_chunk_of_a_long_context_is_cut_too() -> None:
    work = _plan([(32, 32_000)], Heads(32, 8), Tile(128, 64, 132))

    assert len(work.items) == 16
