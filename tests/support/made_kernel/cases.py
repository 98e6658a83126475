"""Products that are right, wrong, refused, and an error."""

from __future__ import annotations

from functools import partial

import torch

from kernels.case import Arguments, Case, Tolerance, normal


def make(device: str, dtype: torch.dtype, factor: float) -> Arguments:
    a, b = (normal((64, 64), seed, dtype).to(device) for seed in (1, 2))
    return a, b, factor


CASES = tuple(
    Case(name, partial(make, dtype=dtype, factor=factor), Tolerance(2e-3, 2e-3))
    for name, dtype, factor in (
        ("float32", torch.float32, 2.0),
        ("float16", torch.float16, 2.0),
        ("bfloat16", torch.bfloat16, 2.0),
        ("wrong", torch.float32, 3.0),
        ("raises", torch.float32, -1.0),
    )
)
