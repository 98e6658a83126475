"""Gates the upper half of the MLP's projection by the lower, as Gemma does: the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

GeluTanhMul: TypeAlias = Callable[[Tensor], Tensor]
"""`run(gate_up [T, 2 * I]) -> [T, I]`: `gelu(gate) * up`, gate being the first I columns.

`gelu(x) = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))` (Hendrycks and Gimpel, 2016).
A new tensor of the same dtype; rows may be strided, T may be 0. Computed in float32, rounded once
at the end.
"""
