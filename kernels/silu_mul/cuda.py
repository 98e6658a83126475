"""Gated SiLU in Triton: a piece of a row per program."""

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
def silu_mul_kernel(gate_up_ptr, out_ptr, row_stride, column_step, width, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_inside = columns < width
    gate_at = gate_up_ptr + row * row_stride + columns * column_step
    up_at = gate_at + width * column_step
    gate = tl.load(gate_at, is_inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    up = tl.load(up_at, is_inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    # exp overflows to infinity for gates far below 0, and the quotient goes to -0 as it should.
    out = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * width + columns, out.to(out_ptr.dtype.element_ty), is_inside)


def run(gate_up: Tensor) -> Tensor:
    """See the contract."""
    return gated(silu_mul_kernel, gate_up)


def gated(kernel: triton.JITFunction, gate_up: Tensor) -> Tensor:
    """Launches a kernel of this form over `gate_up [T, 2 * I]`; T stays below 65,536 a launch."""
    num_rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty(num_rows, width, dtype=gate_up.dtype, device=gate_up.device)
    # A grid's second dimension ends there.
    for start in range(0, num_rows, 65_535):
        rows = gate_up[start : start + 65_535]
        grid = (triton.cdiv(width, BLOCK), len(rows))
        kernel[grid](rows, out[start:], *rows.stride(), width, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return out


def launches(kernel: triton.JITFunction) -> tuple[Launch, ...]:
    """What real models use of a kernel of this form."""
    return tuple(
        Launch(
            dtype,
            kernel,
            {
                "gate_up_ptr": f"*{dtype}:16",
                "out_ptr": f"*{dtype}:16",
                "row_stride": "i32:16",
                "width": "i32:16",
            },
            {"column_step": 1, "BLOCK": BLOCK},
            num_warps=NUM_WARPS,
            expects=(".v4.b32",),
        )
        for dtype in ("bf16", "fp16", "fp32")
    )


LAUNCHES = launches(silu_mul_kernel)
