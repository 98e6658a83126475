"""How programs of a GPU share the tiles of blocks, for packing and unpacking.

A tile is the `[block_size, head_dim]` of one head's keys or values in one layer.
"""

from __future__ import annotations

MAX_TILE = 32_768
"""Values that one program can hold in registers: 64 for each of 512 threads."""
_PROGRAM_VALUES = 8_192
"""Values that one program moves: enough loads in flight to fill the memory's pipe."""


def tile_size(block_size: int, head_dim: int) -> int:
    """The power of two that holds a tile; ValueError if a program can't."""
    size = 1 << (block_size * head_dim - 1).bit_length()
    if size > MAX_TILE:
        raise ValueError(
            f"a block of {block_size} tokens of {head_dim} values is too large a tile: "
            f"at most {MAX_TILE} values"
        )
    return size


def tiles_per_program(tile: int) -> int:
    """How many tiles a program takes, one after the other, loads of all in flight."""
    return max(1, min(4, _PROGRAM_VALUES // tile))


def num_warps(tile: int) -> int:
    """Warps of a program: 64 values for each thread at most."""
    return max(4, min(16, tile // 1_024))
