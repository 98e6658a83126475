"""Rows by number in Triton: a piece of a row per program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch

_BLOCK = 2048
_NUM_WARPS = 4


@triton.jit
def take_rows_kernel(
    table_ptr, ids_ptr, out_ptr, row_stride, column_step, width, BLOCK: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = columns < width
    row = tl.load(ids_ptr + place)
    values = tl.load(table_ptr + row * row_stride + columns * column_step, is_inside, other=0.0)
    tl.store(out_ptr + place * width + columns, values, is_inside)


def run(table: Tensor, ids: Tensor) -> Tensor:
    """See the contract."""
    num_rows, width = len(ids), table.shape[1]
    out = torch.empty(num_rows, width, dtype=table.dtype, device=table.device)
    if num_rows:
        grid = (num_rows, triton.cdiv(width, _BLOCK))
        take_rows_kernel[grid](
            table, ids, out, *table.stride(), width, BLOCK=_BLOCK, num_warps=_NUM_WARPS
        )
    return out


LAUNCHES = tuple(
    Launch(
        dtype,
        take_rows_kernel,
        {
            "table_ptr": f"*{dtype}:16",
            "ids_ptr": "*i64:16",
            "out_ptr": f"*{dtype}:16",
            "row_stride": "i32:16",
            "width": "i32:16",
        },
        {"column_step": 1, "BLOCK": _BLOCK},
        num_warps=_NUM_WARPS,
        expects=(".v4.b32",),
    )
    for dtype in ("bf16", "fp16", "fp32")
)
