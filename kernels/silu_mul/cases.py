"""Cases of silu_mul."""

from __future__ import annotations

from functools import partial

import torch

from kernels.case import Arguments, Case, Tolerance, normal


def _make(
    device: str,
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    stride: int = 1,
) -> Arguments:
    rows = normal((shape[0] * stride, 2 * shape[1]), seed=1, dtype=dtype) * scale
    return (rows.to(device)[::stride],)


# One exponential and three roundings in float32; half types round once.
_FLOAT32 = Tolerance(1e-6, 1e-5)
_BFLOAT16 = Tolerance(1e-3, 2.0**-7)
_FLOAT16 = Tolerance(1e-4, 2.0**-10)

CASES = (
    Case("one row", partial(_make, shape=(1, 8)), _FLOAT32),
    Case("no rows", partial(_make, shape=(0, 64)), _FLOAT32),
    Case("one column", partial(_make, shape=(3, 1)), _FLOAT32),
    Case("odd width", partial(_make, shape=(5, 333)), _FLOAT32),
    Case("a column beyond the tile", partial(_make, shape=(2, 2049)), _FLOAT32),
    Case("strided rows", partial(_make, shape=(7, 96), stride=3), _FLOAT32),
    # exp(-gate) overflows: the gate must go to 0 or to itself, not to NaN.
    Case("saturated gates", partial(_make, shape=(4, 128), scale=1e4), _FLOAT32),
    Case("bfloat16", partial(_make, shape=(9, 256), dtype=torch.bfloat16), _BFLOAT16),
    Case("float16", partial(_make, shape=(9, 256), dtype=torch.float16), _FLOAT16),
)
