"""Normalises rows by their root mean square: the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

RmsNorm: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
"""`run(x [T, H], weight [H], eps) -> [T, H]`: `x / sqrt(mean(x ** 2) + eps) * weight`, row by row.

A new tensor of x's dtype; x may be strided, T may be 0. Computed in float32, rounded once at the
end.
"""
