"""Which program of a GPU attends to which keys: planned once per step, from real lengths.

A program takes one key head and a tile of rows: a few tokens, times the query heads that share the
key head. Where tiles are too few for the GPU, each one's keys are cut into pieces, which are merged
afterwards. Pure: numbers in, arrays out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ITEM_FIELDS = ("sequence", "row", "num_tokens", "position", "start", "end", "slot", "unused")
"""An item: which block table, its first row of q, how many, the first one's position; the keys it
reads, `start` to before `end`; where its part of the result goes, -1 for the result itself."""
MERGE_FIELDS = ("row", "num_tokens", "first_slot", "num_slots")
"""A merge: the rows of q that its parts belong to, and where these lie."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program takes at once."""

    num_rows: int
    """Rows of the score matrix: tokens times query heads per key head."""
    num_keys: int
    """Keys at a step of its loop; pieces begin at multiples of it."""
    num_parallel: int
    """Programs of this kind that a GPU runs at once."""


@dataclass(frozen=True, slots=True)
class Heads:
    """The model's side of a plan."""

    num_heads: int
    num_kv_heads: int
    window: int | None = None

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, slots=True)
class Chunks:
    """What a step computes, an entry for each chunk."""

    sequence: Ints
    """Its row of the block tables."""
    row: Ints
    """Its first row of q."""
    query_len: Ints
    context_len: Ints
    """Its own tokens included."""

    @classmethod
    def of(cls, query_lens: Sequence[int], context_lens: Sequence[int]) -> Chunks:
        """Chunks laid end to end."""
        query_len = np.array(query_lens, dtype=np.int64)
        row = np.cumsum(query_len) - query_len
        context_len = np.array(context_lens, dtype=np.int64)
        return cls(np.arange(len(query_len)), row, query_len, context_len)

    def where(self, is_kept: NDArray[np.bool_]) -> Chunks:
        """Some of them."""
        kept = (self.sequence, self.row, self.query_len, self.context_len)
        return Chunks(*(numbers[is_kept] for numbers in kept))


@dataclass(frozen=True, slots=True)
class WorkList:
    """What programs of one tile do; row counts are those of the arrays."""

    tile: Tile
    items: NDArray[np.int32]
    """[num_items, 8], see ITEM_FIELDS; the longest first."""
    merges: NDArray[np.int32]
    """[num_merges, 4], see MERGE_FIELDS."""
    num_slots: int
    """Parts that are merged; slots are numbered from 0."""


def tokens_per_tile(tile: Tile, heads: Heads) -> int:
    """At least 1: a tile must have a row for each query head of a key head."""
    return tile.num_rows // heads.group


def plan(chunks: Chunks, heads: Heads, tile: Tile, piece_len: int | None = None) -> WorkList:
    """The work of a step's chunks.

    `piece_len`: keys per piece, a multiple of the tile's, whatever else is in the batch. None: as
    many as fill the GPU. Chunks without tokens have no work.
    """
    tiles = _tiles(chunks, heads, tile)
    counts = _num_pieces(tiles, heads, tile, piece_len)
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    if piece_len is None:
        start, end = (_bounds(tiles, owner, number + i, counts, tile) for i in (0, 1))
    else:
        start, end = (_fixed_bounds(tiles, owner, number + i, piece_len) for i in (0, 1))
    # Fixed pieces are always merged: what comes straight from one is rounded otherwise.
    is_split = counts > (1 if piece_len is None else 0)
    num_slots = np.where(is_split, counts, 0)
    first_slots = np.cumsum(num_slots) - num_slots
    items = np.zeros((len(owner), len(ITEM_FIELDS)), dtype=np.int32)
    rows = np.stack([tiles.sequence, tiles.row, tiles.num_tokens, tiles.position], axis=1)
    items[:, :4] = rows[owner]
    items[:, 4], items[:, 5] = start, end
    items[:, 6] = np.where(is_split[owner], first_slots[owner] + number, -1)
    # The longest start first, so that the last ones to end are short.
    order = np.argsort(start - end, kind="stable")
    merges = np.stack([tiles.row, tiles.num_tokens, first_slots, counts], axis=1)[is_split]
    return WorkList(tile, items[order], merges.astype(np.int32), int(num_slots.sum()))


def max_counts(num_sequences: int, heads: Heads, tile: Tile) -> tuple[int, int]:
    """Most items and slots of any plan without `piece_len` for sequences of one tile each."""
    # `_piece_len` keeps to what runs at once, or else each tile has a whole number of even shares.
    most = max(tile.num_parallel // heads.num_kv_heads, 1) + num_sequences
    return most, most


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Tiles of rows, an entry each."""

    sequence: Ints
    row: Ints
    num_tokens: Ints
    position: Ints
    start: Ints
    """First key that a token sees, rounded down to the tile's keys."""
    end: Ints
    """Behind the last key that a token sees."""


def _tiles(chunks: Chunks, heads: Heads, tile: Tile) -> _Tiles:
    size = tokens_per_tile(tile, heads)
    assert size >= 1, f"a tile of {tile.num_rows} rows is too small for {heads.group} query heads"
    counts = -(-chunks.query_len // size)
    owner = np.repeat(np.arange(len(counts)), counts)
    before = (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)) * size
    num_tokens = np.minimum(size, chunks.query_len[owner] - before)
    position = (chunks.context_len - chunks.query_len)[owner] + before
    start = np.zeros_like(position)
    if heads.window is not None:
        start = np.maximum(position - heads.window + 1, 0) // tile.num_keys * tile.num_keys
    row = chunks.row[owner] + before
    end = position + num_tokens
    return _Tiles(chunks.sequence[owner], row, num_tokens, position, start, end)


def _num_pieces(tiles: _Tiles, heads: Heads, tile: Tile, piece_len: int | None) -> Ints:
    if piece_len is not None:
        return -(-tiles.end // piece_len) - tiles.start // piece_len
    steps = -(-(tiles.end - tiles.start) // tile.num_keys)
    return -(-steps // _piece_steps(steps, heads, tile))


_LEAST_STEPS = 4
"""A piece of fewer steps costs more to merge than it saves."""


def _piece_steps(steps: Ints, heads: Heads, tile: Tile) -> int:
    """Steps of a piece: the fewest with which all pieces run at once.

    Where even whole tiles don't, an even share of all steps, which cuts only the long ones.
    """
    most = max(tile.num_parallel // heads.num_kv_heads, 1)
    share = max(-(-int(steps.sum()) // most), _LEAST_STEPS)
    longest = int(steps.max(initial=1))
    if len(steps) > most or share >= longest:
        return share
    candidates = np.arange(share, longest + 1)
    num_pieces = (-(-steps[:, None] // candidates)).sum(0)
    return int(candidates[np.argmax(num_pieces <= most)])


def _bounds(tiles: _Tiles, owner: Ints, number: Ints, counts: Ints, tile: Tile) -> Ints:
    """Where pieces begin: each its share of the steps of its tile `owner`."""
    steps = -(-(tiles.end - tiles.start) // tile.num_keys)
    bound = tiles.start[owner] + steps[owner] * number // counts[owner] * tile.num_keys
    return np.minimum(bound, tiles.end[owner])


def _fixed_bounds(tiles: _Tiles, owner: Ints, number: Ints, piece_len: int) -> Ints:
    """Where pieces begin: at multiples of `piece_len`."""
    bound = (tiles.start[owner] // piece_len + number) * piece_len
    return np.clip(bound, tiles.start[owner], tiles.end[owner])
