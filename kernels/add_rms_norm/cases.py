"""Cases of add_rms_norm."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.case import Arguments, Case, Tolerance, normal

_EPS = 1e-6


def _make(
    device: str,
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    stride: int = 1,
) -> Arguments:
    x = normal((shape[0], shape[1] * stride), seed=1, dtype=dtype)[:, ::stride] * scale
    residual = normal(shape, seed=2, dtype=dtype) * scale
    weight = normal(shape[1:], seed=3, dtype=dtype)
    return x.to(device), residual.to(device), weight.to(device), _EPS


def _observe(arguments: Arguments, result: Any) -> tuple[Tensor, ...]:
    """Both results, and the inputs, which must stay."""
    return (*result, arguments[0], arguments[1])


# As for rms_norm.
_FLOAT32 = Tolerance(1e-6, 1e-5)
_BFLOAT16 = Tolerance(1e-3, 2.0**-7)

CASES = (
    Case("one row", partial(_make, shape=(1, 8)), _FLOAT32, _observe),
    Case("no rows", partial(_make, shape=(0, 64)), _FLOAT32, _observe),
    Case("odd width", partial(_make, shape=(5, 1001)), _FLOAT32, _observe),
    Case("strided", partial(_make, shape=(7, 96), stride=2), _FLOAT32, _observe),
    Case("outliers", partial(_make, shape=(4, 128), scale=1e15), _FLOAT32, _observe),
    Case(
        "bfloat16",
        partial(_make, shape=(9, 256), dtype=torch.bfloat16),
        _BFLOAT16,
        _observe,
    ),
)
