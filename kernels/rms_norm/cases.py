"""Cases of rms_norm."""

from __future__ import annotations

from functools import partial

import torch

from kernels.case import Arguments, Case, Tolerance, normal

_EPS = 1e-6


def _make(
    device: str,
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    stride: int = 1,
) -> Arguments:
    x = (normal((shape[0] * stride, shape[1]), seed=1, dtype=dtype) * scale).to(device)[::stride]
    weight = normal(shape[1:], seed=2, dtype=dtype)
    return x, weight.to(device), _EPS


def _make_outlier(device: str) -> Arguments:
    """Rows of ones of which one element is 1e6: the others all but vanish."""
    x = torch.ones(3, 300)
    x[:, 7] = 1e6
    return x.to(device), normal((300,), seed=2).to(device), _EPS


# Sums over a row in another order differ by some float32 roundings (6e-8 each); half types round
# once, at 2**-9.
_FLOAT32 = Tolerance(1e-6, 1e-5)
_BFLOAT16 = Tolerance(1e-3, 2.0**-7)
_FLOAT16 = Tolerance(1e-4, 2.0**-10)

CASES = (
    Case("one row", partial(_make, shape=(1, 8)), _FLOAT32),
    Case("no rows", partial(_make, shape=(0, 64)), _FLOAT32),
    Case("odd width", partial(_make, shape=(5, 1001)), _FLOAT32),
    Case("one column", partial(_make, shape=(3, 1)), _FLOAT32),
    Case("a column beyond the tile", partial(_make, shape=(2, 4097)), _FLOAT32),
    Case("one outlier among small values", _make_outlier, _FLOAT32),
    Case("strided rows", partial(_make, shape=(7, 96), stride=3), _FLOAT32),
    Case("outliers", partial(_make, shape=(4, 128), scale=1e15), _FLOAT32),
    Case("near zero", partial(_make, shape=(4, 128), scale=1e-20), _FLOAT32),
    Case("all zero", partial(_make, shape=(2, 128), scale=0.0), _FLOAT32),
    Case("bfloat16", partial(_make, shape=(9, 256), dtype=torch.bfloat16), _BFLOAT16),
    Case("float16", partial(_make, shape=(9, 256), dtype=torch.float16), _FLOAT16),
)
