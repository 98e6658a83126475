"""Unpacking blocks on a GPU: one launch for all blocks, layers, heads, keys and values."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.block_tiles import Walk, launch_types, options, packed_strides, start_of
from kernels.launch import Launch
from kernels.packed import Form, parts


@triton.jit
def unpack(
    values_ptr,
    scales_ptr,
    block_ids_ptr,
    arena_ptr,
    num_tiles,
    heads,
    stride_block,
    stride_layer,
    stride_kind,
    stride_head,
    values_stride,
    scales_stride,
    TILE_VALUES: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.load(block_ids_ptr + row)
    inner = tl.arange(0, TILE)
    for step in tl.static_range(TILES):
        tile = tl.program_id(1) * TILES + step
        start = start_of(tile, block, heads, stride_block, stride_layer, stride_kind, stride_head)
        is_inside = (inner < TILE_VALUES) & (tile < num_tiles)
        source = row * values_stride + tile.to(tl.int64) * TILE_VALUES
        x = tl.load(values_ptr + source + inner, mask=is_inside)
        if scales_ptr is not None:
            scale = tl.load(scales_ptr + row * scales_stride + tile, mask=tile < num_tiles)
            x = x.to(tl.float32) * scale
        tl.store(arena_ptr + start + inner, x.to(arena_ptr.dtype.element_ty), mask=is_inside)


def run(packed: Tensor, block_ids: Tensor, form: Form, arena: Tensor) -> None:
    """See the contract."""
    walk = Walk.over(arena, block_ids.numel())
    blocks = parts(packed, arena, form)
    if walk.is_empty:
        return
    unpack[walk.grid](
        blocks.values,
        blocks.scales,
        block_ids,
        arena,
        *walk.arguments,
        *packed_strides(blocks),
        TILE_VALUES=arena.shape[4] * arena.shape[5],
        **walk.options,
    )


def _launch(name: str, stored: str, tile: int) -> Launch:
    types, none = launch_types(stored)
    shape = options(tile)
    warps = shape.pop("num_warps")
    return Launch(
        name,
        unpack,
        types,
        {"TILE_VALUES": tile} | shape | none,
        num_warps=warps,
        expects=("ld.global.v4", "st.global.v4"),
    )


# Blocks of 16 and 64 tokens of 128 values.
LAUNCHES = tuple(
    _launch(f"{stored} of blocks of {tile // 128}", stored, tile)
    for stored in ("bf16", "i8", "fp8e4nv")
    for tile in (2_048, 8_192)
)
