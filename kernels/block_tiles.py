"""What packing and unpacking blocks on a GPU have in common: the walk over tiles, in Triton.

Programs of the first grid dimension take a block each, those of the second its tiles in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.packed import Parts, require_whole_tiles
from kernels.tiles import num_warps, tile_size, tiles_per_program


@triton.jit
def start_of(tile, block, heads, stride_block, stride_layer, stride_kind, stride_head):
    """Where a block's tile begins in the arena, in values."""
    layer, kind, head = tile // (2 * heads), tile // heads % 2, tile % heads
    start = block * stride_block + layer.to(tl.int64) * stride_layer
    return start + kind.to(tl.int64) * stride_kind + head.to(tl.int64) * stride_head


@dataclass(frozen=True, slots=True)
class Walk:
    """How programs go over the tiles of so many blocks."""

    grid: tuple[int, int]
    """Empty if there is nothing to do."""
    arguments: tuple[int, ...]
    """num_tiles, heads and the arena's strides."""
    tile: int
    options: dict[str, Any]
    """Constants and warps of a launch."""

    @classmethod
    def over(cls, arena: Tensor, num_blocks: int) -> Walk:
        """ValueError if a tile is not one run in memory, or too large."""
        require_whole_tiles(arena)
        _, layers, _, heads, block_size, head_dim = arena.shape
        num_tiles, tile = layers * 2 * heads, tile_size(block_size, head_dim)
        grid = (num_blocks, triton.cdiv(num_tiles, tiles_per_program(tile)))
        return cls(grid, (num_tiles, heads, *arena.stride()[:4]), tile, options(tile))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return 0 in self.grid


def options(tile: int) -> dict[str, Any]:
    """Constants and warps for tiles of so many values."""
    return {"TILE": tile, "TILES": tiles_per_program(tile), "num_warps": num_warps(tile)}


def packed_strides(parts: Parts) -> tuple[int, int]:
    """Values and scales from one packed block to the next."""
    return parts.values.stride(0), 0 if parts.scales is None else parts.scales.stride(0)


def launch_types(stored: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Argument types and constants of a `Launch` on a bfloat16 arena, by the stored type."""
    types = {
        "values_ptr": f"*{stored}:16",
        "arena_ptr": "*bf16:16",
        "block_ids_ptr": "*i64:16",
        "num_tiles": "i32:16",
        "heads": "i32",
        "stride_block": "i64:16",
        "stride_layer": "i32:16",
        "stride_kind": "i32:16",
        "stride_head": "i32:16",
        "values_stride": "i32:16",
    }
    if stored == "bf16":
        return types, {"scales_ptr": None, "scales_stride": 0}
    return types | {"scales_ptr": "*fp32:16", "scales_stride": "i32:16"}, {}
