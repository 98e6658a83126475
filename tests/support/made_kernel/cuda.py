"""A matrix product of one tile, to test how kernels are tested."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch

SIZE = 64


@triton.jit
def product(a_ptr, b_ptr, out_ptr, factor, SIZE: tl.constexpr):
    rows = tl.arange(0, SIZE)[:, None]
    columns = tl.arange(0, SIZE)[None, :]
    a = tl.load(a_ptr + rows * SIZE + columns)
    b = tl.load(b_ptr + rows * SIZE + columns)
    out = tl.dot(a, b, input_precision="ieee") * factor
    tl.store(out_ptr + rows * SIZE + columns, out.to(out_ptr.dtype.element_ty))


def run(a: Tensor, b: Tensor, factor: float) -> Tensor:
    if factor < 0:
        raise ValueError("a negative factor")
    out = torch.empty_like(a)
    # The wrong factor of the wrong case.
    product[(1,)](a, b, out, 2.01 if factor == 3 else factor, SIZE=SIZE)
    return out


LAUNCHES = (
    Launch(
        "product",
        product,
        {"a_ptr": "*bf16:16", "b_ptr": "*bf16:16", "out_ptr": "*bf16:16", "factor": "fp32"},
        {"SIZE": SIZE},
        expects=("wgmma.mma_async",),
        forbids=("mma.sync",),
    ),
)
