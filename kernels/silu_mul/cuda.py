"""Gated activations in Triton, SiLU and GELU: a piece of a row per program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch

# 16 elements of gate and of up a thread: two 16-byte loads of a half type each, all in flight.
BLOCK = 2048
NUM_WARPS = 4


@triton.jit
def gate_kernel(
    gate_up_ptr,
    out_ptr,
    row_stride,
    column_step,
    width,
    IS_GELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_inside = columns < width
    gate_at = gate_up_ptr + row * row_stride + columns * column_step
    up_at = gate_at + width * column_step
    gate = tl.load(gate_at, is_inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    up = tl.load(up_at, is_inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    x = gate
    if IS_GELU:
        # (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z)), z = sqrt(2 / pi) * (gate + 0.044715 * gate ** 3).
        x = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    # exp overflows to infinity for gates far below 0, and the quotient goes to -0 as it should.
    out = gate / (1.0 + tl.exp(-x)) * up
    tl.store(out_ptr + row * width + columns, out.to(out_ptr.dtype.element_ty), is_inside)


def run(gate_up: Tensor) -> Tensor:
    """See the contract."""
    return gated(gate_up, is_gelu=False)


def gated(gate_up: Tensor, *, is_gelu: bool) -> Tensor:
    """Gates `gate_up [T, 2 * I]`; no launch takes more than 65,535 rows."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(num_rows, width, dtype=gate_up.dtype, device=gate_up.device)
    # A grid's second dimension ends there.
    for start in range(0, num_rows, 65_535):
        rows = gate_up[start : start + 65_535]
        grid = (triton.cdiv(width, BLOCK), len(rows))
        constants = {"IS_GELU": is_gelu, "BLOCK": BLOCK}
        gate_kernel[grid](
            rows, out[start:], *rows.stride(), width, num_warps=NUM_WARPS, **constants
        )
    return out


def launches(*, is_gelu: bool) -> tuple[Launch, ...]:
    """What real models use."""
    return tuple(
        Launch(
            dtype,
            gate_kernel,
            {
                "gate_up_ptr": f"*{dtype}:16",
                "out_ptr": f"*{dtype}:16",
                "row_stride": "i32:16",
                "width": "i32:16",
            },
            {"column_step": 1, "IS_GELU": is_gelu, "BLOCK": BLOCK},
            num_warps=NUM_WARPS,
            expects=(".v4.b32",),
        )
        for dtype in ("bf16", "fp16", "fp32")
    )


LAUNCHES = launches(is_gelu=False)
