"""Packing blocks on a GPU: one launch for all blocks, layers, heads, keys and values."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kernels.block_tiles import Walk, launch_types, options, packed_strides, start_of
from kernels.launch import Launch
from kernels.packed import LARGEST, TINY, Form, clear_gaps, parts
from kernels.tiles import tile_size

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
        start = start_of(tile, block, heads, stride_block, stride_layer, stride_kind, stride_head)
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
    walk = Walk.over(arena, block_ids.numel())
    packed = parts(out, arena, form)
    clear_gaps(out, arena, form)
    if walk.is_empty:
        return
    pack[walk.grid](
        arena,
        block_ids,
        filled,
        packed.values,
        packed.scales,
        *walk.arguments,
        *packed_strides(packed),
        **_constants(form, *arena.shape[4:]),
        **walk.options,
    )


def _constants(form: Form, block_size: int, head_dim: int) -> dict[str, Any]:
    return {
        "BLOCK_SIZE": block_size,
        "HEAD_DIM": head_dim,
        "LARGEST": LARGEST.get(form, 1.0),
        "IS_INTEGER": form is Form.INT8,
        "TINY": TINY,
    }


def _launch(form: Form, stored: str, block_size: int) -> Launch:
    types, none = launch_types(stored)
    shape = options(tile_size(block_size, 128))
    warps = shape.pop("num_warps")
    return Launch(
        f"{form.value} of blocks of {block_size}",
        pack,
        types | {"filled_ptr": "*i32:16"},
        _constants(form, block_size, 128) | shape | none,
        num_warps=warps,
        expects=("ld.global.v4", "st.global.v4"),
    )


LAUNCHES = tuple(
    _launch(form, stored, block_size)
    for form, stored in ((Form.PLAIN, "bf16"), (Form.INT8, "i8"), (Form.FP8, "fp8e4nv"))
    for block_size in (16, 64)
)
