"""Adds to the residual stream and normalises the sum: the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

AddRmsNorm: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""`run(x [T, H], residual [T, H], weight [H], eps) -> (rms_norm(sum), sum)`, `sum = x + residual`.

The sum is rounded to x's dtype before it is normalised. Nothing is written in place;
x and the residual may be strided, T may be 0.
"""
