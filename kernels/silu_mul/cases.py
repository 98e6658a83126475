"""Cases of silu_mul, and of any gated activation."""

from __future__ import annotations

from functools import partial

import torch

from kernels.case import Arguments, Case, Tolerance, normal


def make(
    device: str,
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    scale: float = 1.0,
    stride: int = 1,
) -> Arguments:
    rows = normal((shape[0] * stride, 2 * shape[1]), seed=1, dtype=dtype) * scale
    return (rows.to(device)[::stride],)


# Half types round once.
_BFLOAT16 = Tolerance(1e-3, 2.0**-7)
_FLOAT16 = Tolerance(1e-4, 2.0**-10)


def gated_cases(float32: Tolerance, saturating: float) -> tuple[Case, ...]:
    """Cases with a tolerance in float32, and a scale at which exponentials or powers overflow."""
    return (
        Case("one row", partial(make, shape=(1, 8)), float32),
        Case("no rows", partial(make, shape=(0, 64)), float32),
        Case("one column", partial(make, shape=(3, 1)), float32),
        Case("odd width", partial(make, shape=(5, 333)), float32),
        Case("a column beyond the tile", partial(make, shape=(2, 2049)), float32),
        Case("strided rows", partial(make, shape=(7, 96), stride=3), float32),
        # The gate must go to 0 or to itself, not to NaN.
        Case("saturated gates", partial(make, shape=(4, 128), scale=saturating), float32),
        Case("all zero", partial(make, shape=(2, 128), scale=0.0), float32),
        Case("bfloat16", partial(make, shape=(9, 256), dtype=torch.bfloat16), _BFLOAT16),
        Case("float16", partial(make, shape=(9, 256), dtype=torch.float16), _FLOAT16),
    )


# One exponential and three roundings in float32.
CASES = gated_cases(Tolerance(1e-6, 1e-5), saturating=1e4)
