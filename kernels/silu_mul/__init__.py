"""Gates the upper half of the MLP's projection by the lower: the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

SiluMul: TypeAlias = Callable[[Tensor], Tensor]
"""`run(gate_up [T, 2 * I]) -> [T, I]`: `silu(gate) * up`, gate being the first I columns.

A new tensor of the same dtype; rows may be strided, T may be 0. Computed in float32, rounded once
at the end.
"""
