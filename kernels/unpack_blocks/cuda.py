"""Unpacking blocks on a GPU: one launch for all blocks, layers, heads, keys and values."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch
from kernels.packed import Form, parts, require_whole_tiles
from kernels.tiles import num_warps, tile_size, tiles_per_program


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
        layer, kind, head = tile // (2 * heads), tile // heads % 2, tile % heads
        start = block * stride_block + layer.to(tl.int64) * stride_layer
        start += kind.to(tl.int64) * stride_kind + head.to(tl.int64) * stride_head
        is_inside = (inner < TILE_VALUES) & (tile < num_tiles)
        source = row * values_stride + tile.to(tl.int64) * TILE_VALUES
        x = tl.load(values_ptr + source + inner, mask=is_inside)
        if scales_ptr is not None:
            scale = tl.load(scales_ptr + row * scales_stride + tile, mask=tile < num_tiles)
            x = x.to(tl.float32) * scale
        tl.store(arena_ptr + start + inner, x.to(arena_ptr.dtype.element_ty), mask=is_inside)


def run(packed: Tensor, block_ids: Tensor, form: Form, arena: Tensor) -> None:
    """See the contract."""
    require_whole_tiles(arena)
    blocks = parts(packed, arena, form)
    _, layers, _, heads, block_size, head_dim = arena.shape
    num_tiles, tile = layers * 2 * heads, tile_size(block_size, head_dim)
    each = tiles_per_program(tile)
    if not block_ids.numel() or not num_tiles:
        return
    unpack[(block_ids.numel(), triton.cdiv(num_tiles, each))](
        blocks.values,
        blocks.scales,
        block_ids,
        arena,
        num_tiles,
        heads,
        *arena.stride()[:4],
        blocks.values.stride(0),
        0 if blocks.scales is None else blocks.scales.stride(0),
        TILE_VALUES=block_size * head_dim,
        TILE=tile,
        TILES=each,
        num_warps=num_warps(tile),
    )


_ADDRESSES = {
    "block_ids_ptr": "*i64:16",
    "num_tiles": "i32:16",
    "heads": "i32",
    "stride_block": "i64:16",
    "stride_layer": "i32:16",
    "stride_kind": "i32:16",
    "stride_head": "i32:16",
    "values_stride": "i32:16",
}


def _launch(name: str, stored: str, tile: int) -> Launch:
    is_plain = stored == "bf16"
    pointers = {"values_ptr": f"*{stored}:16", "arena_ptr": "*bf16:16"}
    scales = {} if is_plain else {"scales_ptr": "*fp32:16", "scales_stride": "i32:16"}
    constants = {"TILE_VALUES": tile, "TILE": tile, "TILES": tiles_per_program(tile)}
    no_scales = {"scales_ptr": None, "scales_stride": 0} if is_plain else {}
    return Launch(
        name,
        unpack,
        {**pointers, **_ADDRESSES, **scales},
        {**constants, **no_scales},
        num_warps=num_warps(tile),
        expects=("ld.global.v4", "st.global.v4"),
    )


# Blocks of 16 and 64 tokens of 128 values.
LAUNCHES = tuple(
    _launch(f"{stored} of blocks of {tile // 128}", stored, tile)
    for stored in ("bf16", "i8", "fp8e4nv")
    for tile in (2_048, 8_192)
)
