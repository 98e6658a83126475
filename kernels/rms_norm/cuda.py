"""RMS norm in Triton: a row per program, read once and held in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch


@triton.jit
def rms_norm_kernel(x_ptr, weight_ptr, out_ptr, x_stride, x_step, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_inside = columns < width
    # The weight is every program's and stays in L2; the row is nobody else's.
    weight = tl.load(weight_ptr + columns, is_inside, other=0.0, eviction_policy="evict_last")
    x = tl.load(
        x_ptr + row * x_stride + columns * x_step,
        is_inside,
        other=0.0,
        eviction_policy="evict_first",
    ).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / width + eps)
    out = x * scale * weight.to(tl.float32)
    tl.store(out_ptr + row * width + columns, out.to(out_ptr.dtype.element_ty), is_inside)


def num_warps(block: int) -> int:
    """Warps for a row: each thread holds 8 elements, a 16-byte load of a half type, or more."""
    return min(max(block // 256, 1), 16)


def run(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See the contract."""
    num_rows, width = x.shape
    out = torch.empty(num_rows, width, dtype=x.dtype, device=x.device)
    if num_rows:
        block = triton.next_power_of_2(width)
        rms_norm_kernel[(num_rows,)](
            x,
            weight,
            out,
            x.stride(0),
            x.stride(1),
            width,
            eps,
            BLOCK=block,
            num_warps=num_warps(block),
        )
    return out


def _launch(dtype: str, width: int) -> Launch:
    block = triton.next_power_of_2(width)
    return Launch(
        f"{dtype} {width}",
        rms_norm_kernel,
        {
            "x_ptr": f"*{dtype}:16",
            "weight_ptr": f"*{dtype}:16",
            "out_ptr": f"*{dtype}:16",
            "x_stride": "i32:16",
            "width": "i32:16",
            "eps": "fp32",
        },
        # A stride of 1 is a constant at a real launch, too.
        {"x_step": 1, "BLOCK": block},
        num_warps=num_warps(block),
        # Loads of 16 bytes: 8 elements of a half type, 4 of float32.
        expects=(".v4.b32",),
    )


# Hidden sizes of Qwen3-0.6B, Qwen3-8B and Llama-3.1-8B, Qwen3-32B, Llama-3.1-70B.
LAUNCHES = (
    *(_launch("bf16", width) for width in (1024, 4096, 5120, 8192)),
    _launch("fp16", 4096),
    _launch("fp32", 4096),
)
