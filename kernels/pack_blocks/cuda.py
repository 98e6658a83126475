"""Packing blocks on a GPU: one launch for all blocks, layers, heads, keys and values."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch
from kernels.packed import LARGEST, TINY, Form, clear_gaps, parts, require_whole_tiles
from kernels.tiles import num_warps, tile_size, tiles_per_program

_HALF_TO_EVEN = tl.constexpr(12582912.0)
"""1.5 * 2**23: a float32 of less than 2**22 plus this minus this is rounded to an integer."""


@triton.jit
def pack(
    arena_ptr,
    block_ids_ptr,
    filled_ptr,
    values_ptr,
    scales_ptr,
    num_tiles,
    heads,
    stride_block,
    stride_layer,
    stride_kind,
    stride_head,
    values_stride,
    scales_stride,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    LARGEST: tl.constexpr,
    IS_INTEGER: tl.constexpr,
    TINY: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    block = tl.load(block_ids_ptr + row)
    num_filled = tl.load(filled_ptr + row) * HEAD_DIM
    inner = tl.arange(0, TILE)
    is_inside = inner < BLOCK_SIZE * HEAD_DIM
    for step in tl.static_range(TILES):
        tile = tl.program_id(1) * TILES + step
        layer, kind, head = tile // (2 * heads), tile // heads % 2, tile % heads
        start = block * stride_block + layer.to(tl.int64) * stride_layer
        start += kind.to(tl.int64) * stride_kind + head.to(tl.int64) * stride_head
        has_tile = tile < num_tiles
        is_filled = is_inside & (inner < num_filled) & has_tile
        x = tl.load(arena_ptr + start + inner, mask=is_filled, other=0)
        to = row * values_stride + tile.to(tl.int64) * (BLOCK_SIZE * HEAD_DIM)
        if scales_ptr is not None:
            x = x.to(tl.float32)
            is_odd = tl.max((x - x != 0).to(tl.int32), 0) > 0  # a NaN or an infinity
            peak = tl.max(tl.abs(x), 0)
            is_kept = (peak >= TINY) & (is_odd == 0)
            safe = tl.where(is_kept, peak, 1.0)
            scale = tl.where(is_kept, tl.div_rn(safe, LARGEST), 0.0)
            scale = tl.where(is_odd, float("nan"), scale)
            tl.store(scales_ptr + row * scales_stride + tile, scale, mask=has_tile)
            x = x * tl.div_rn(tl.full((), LARGEST, tl.float32), safe)
            x = tl.where(is_kept, x, 0.0)
            if IS_INTEGER:
                x = (x + _HALF_TO_EVEN) - _HALF_TO_EVEN
        tl.store(
            values_ptr + to + inner, x.to(values_ptr.dtype.element_ty), mask=is_inside & has_tile
        )


def run(arena: Tensor, block_ids: Tensor, filled: Tensor, form: Form, out: Tensor) -> None:
    """See the contract."""
    require_whole_tiles(arena)
    packed = parts(out, arena, form)
    clear_gaps(out, arena, form)
    _, layers, _, heads, block_size, head_dim = arena.shape
    num_tiles, tile = layers * 2 * heads, tile_size(block_size, head_dim)
    each = tiles_per_program(tile)
    if not block_ids.numel() or not num_tiles:
        return
    pack[(block_ids.numel(), triton.cdiv(num_tiles, each))](
        arena,
        block_ids,
        filled,
        packed.values,
        packed.scales,
        num_tiles,
        heads,
        *arena.stride()[:4],
        packed.values.stride(0),
        0 if packed.scales is None else packed.scales.stride(0),
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        TILE=tile,
        TILES=each,
        LARGEST=LARGEST.get(form, 1.0),
        IS_INTEGER=form is Form.INT8,
        TINY=TINY,
        num_warps=num_warps(tile),
    )


_ADDRESSES = {
    "arena_ptr": "*bf16:16",
    "block_ids_ptr": "*i64:16",
    "filled_ptr": "*i32:16",
    "num_tiles": "i32:16",
    "heads": "i32",
    "stride_block": "i64:16",
    "stride_layer": "i32:16",
    "stride_kind": "i32:16",
    "stride_head": "i32:16",
    "values_stride": "i32:16",
}


def _launch(form: Form, stored: str, block_size: int) -> Launch:
    tile = tile_size(block_size, 128)
    scales = {"scales_ptr": "*fp32:16", "scales_stride": "i32:16"}
    constants = {
        "BLOCK_SIZE": block_size,
        "HEAD_DIM": 128,
        "TILE": tile,
        "TILES": tiles_per_program(tile),
        "LARGEST": LARGEST.get(form, 1.0),
        "IS_INTEGER": form is Form.INT8,
        "TINY": TINY,
    }
    is_plain = form is Form.PLAIN
    return Launch(
        f"{form.value} of blocks of {block_size}",
        pack,
        {**_ADDRESSES, "values_ptr": f"*{stored}:16", **({} if is_plain else scales)},
        {**constants, **({"scales_ptr": None, "scales_stride": 0} if is_plain else {})},
        num_warps=num_warps(tile),
        expects=("ld.global.v4", "st.global.v4"),
    )


LAUNCHES = tuple(
    _launch(form, stored, block_size)
    for form, stored in ((Form.PLAIN, "bf16"), (Form.INT8, "i8"), (Form.FP8, "fp8e4nv"))
    for block_size in (16, 64)
)
