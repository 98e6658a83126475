"""Residual sum and RMS norm in Triton: a row per program, read once and held in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch
from kernels.rms_norm.cuda import num_warps


@triton.jit
def add_rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    total_ptr,
    x_stride,
    x_step,
    residual_stride,
    residual_step,
    width,
    eps,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_inside = columns < width
    weight = tl.load(weight_ptr + columns, is_inside, other=0.0, eviction_policy="evict_last")
    x_at = x_ptr + row * x_stride + columns * x_step
    residual_at = residual_ptr + row * residual_stride + columns * residual_step
    x = tl.load(x_at, is_inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    residual = tl.load(residual_at, is_inside, other=0.0, eviction_policy="evict_first")
    # What is normalised is the sum as it is stored.
    total = (x + residual.to(tl.float32)).to(total_ptr.dtype.element_ty)
    tl.store(total_ptr + row * width + columns, total, is_inside)
    wide = total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=0) / width + eps)
    out = wide * scale * weight.to(tl.float32)
    tl.store(out_ptr + row * width + columns, out.to(out_ptr.dtype.element_ty), is_inside)


def run(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See the contract."""
    num_rows, width = x.shape
    out, total = (torch.empty(num_rows, width, dtype=x.dtype, device=x.device) for _ in range(2))
    if num_rows:
        block = triton.next_power_of_2(width)
        add_rms_norm_kernel[(num_rows,)](
            x,
            residual,
            weight,
            out,
            total,
            *x.stride(),
            *residual.stride(),
            width,
            eps,
            BLOCK=block,
            num_warps=num_warps(block),
        )
    return out, total


def _launch(dtype: str, width: int) -> Launch:
    block = triton.next_power_of_2(width)
    pointers = ("x_ptr", "residual_ptr", "weight_ptr", "out_ptr", "total_ptr")
    numbers = {"x_stride": "i32:16", "residual_stride": "i32:16", "width": "i32:16", "eps": "fp32"}
    return Launch(
        f"{dtype} {width}",
        add_rms_norm_kernel,
        {**dict.fromkeys(pointers, f"*{dtype}:16"), **numbers},
        {"x_step": 1, "residual_step": 1, "BLOCK": block},
        num_warps=num_warps(block),
        expects=(".v4.b32",),
    )


# As for rms_norm.
LAUNCHES = (
    *(_launch("bf16", width) for width in (1024, 4096, 5120, 8192)),
    _launch("fp16", 4096),
    _launch("fp32", 4096),
)
