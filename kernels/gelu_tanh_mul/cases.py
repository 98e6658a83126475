"""Cases of gelu_tanh_mul: those of silu_mul, with a tolerance of its own."""

from __future__ import annotations

from kernels.case import Tolerance
from kernels.silu_mul.cases import gated_cases

# Far below zero 1 + tanh cancels: there the result is a few roundings (6e-8) of gate * up, not of
# itself. The cube of the saturating scale overflows.
CASES = gated_cases(Tolerance(2e-6, 1e-5), saturating=1e14)
