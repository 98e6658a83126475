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
    row_stride: int = 1,
) -> Arguments:
    wide = (shape[0] * row_stride, shape[1] * stride)
    x = (normal(wide, seed=1, dtype=dtype) * scale).to(device)[::row_stride, ::stride]
    residual = (normal(wide, seed=2, dtype=dtype) * scale).to(device)[::row_stride, : shape[1]]
    weight = normal(shape[1:], seed=3, dtype=dtype)
    return x, residual, weight.to(device), _EPS


def _make_opposite(device: str) -> Arguments:
    x, residual, weight, eps = _make(device, (2, 128))
    residual.copy_(-x)
    return x, residual, weight, eps


def _observe(arguments: Arguments, result: Any) -> tuple[Tensor, ...]:
    """Both results, and the inputs, which must stay."""
    return (*result, arguments[0], arguments[1])


# As for rms_norm.
_FLOAT32 = Tolerance(1e-6, 1e-5)
_BFLOAT16 = Tolerance(1e-3, 2.0**-7)
_FLOAT16 = Tolerance(1e-4, 2.0**-10)

CASES = (
    Case("one row", partial(_make, shape=(1, 8)), _FLOAT32, _observe),
    Case("no rows", partial(_make, shape=(0, 64)), _FLOAT32, _observe),
    Case("odd width", partial(_make, shape=(5, 1001)), _FLOAT32, _observe),
    Case("one column", partial(_make, shape=(3, 1)), _FLOAT32, _observe),
    Case("a column beyond the tile", partial(_make, shape=(2, 4097)), _FLOAT32, _observe),
    Case("strided rows", partial(_make, shape=(7, 96), row_stride=3), _FLOAT32, _observe),
    Case("sums to zero", _make_opposite, _FLOAT32, _observe),
    Case("strided", partial(_make, shape=(7, 96), stride=2), _FLOAT32, _observe),
    Case("outliers", partial(_make, shape=(4, 128), scale=1e15), _FLOAT32, _observe),
    Case("bfloat16", partial(_make, shape=(9, 256), dtype=torch.bfloat16), _BFLOAT16, _observe),
    Case("float16", partial(_make, shape=(9, 256), dtype=torch.float16), _FLOAT16, _observe),
)
