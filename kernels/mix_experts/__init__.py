"""Runs tokens through their experts and adds what those say, weighted: the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from kernels.route_experts import Routed


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """Matrices of 4-bit floats, 32 inputs of a row sharing a power of two (OCP MX)."""

    values: Tensor
    """[E, outputs, inputs / 2] uint8: input 2j in the low half of byte j, 2j + 1 in the high one.
    A half is a sign above 0, 0.5, 1, 1.5, 2, 3, 4 or 6."""
    scales: Tensor
    """[E, outputs, inputs / 32] uint8: the power of two, plus 127. 0 may count as zero; 255 is NaN
    in the standard and isn't allowed."""


@dataclass(frozen=True, slots=True)
class Activation:
    """Of gate g and up u: `g' * sigmoid(alpha * g') * (u' + offset)`.

    g' is at most `limit`, u' between -limit and limit. As it stands SiLU-mul; gpt-oss has 1.702, 7
    and 1.
    """

    alpha: float = 1.0
    limit: float = float("inf")
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Experts:
    """A layer's experts, or this worker's share of them."""

    gate_up: Tensor | Mxfp4
    """[E, 2 * inner, hidden]: each expert's rows for gate, then those for up."""
    down: Tensor | Mxfp4
    """[E, hidden, inner]."""
    gate_up_bias: Tensor | None = None
    """[E, 2 * inner]."""
    down_bias: Tensor | None = None
    """[E, hidden]."""
    activation: Activation = Activation()


MixExperts: TypeAlias = Callable[[Tensor, Routed, Experts], Tensor]
"""`run(x [T, hidden], routed, experts) -> [T, hidden]`.

`out[t] = sum over c of weights[t, c] * (down[e] @ act(gate_up[e] @ x[t] + bias) + bias)` with e =
experts[t, c]. An id below 0 or from E on names an expert of another worker and adds nothing. The
activation's result is rounded to x's dtype; sums are in float32, over c in order and rounded once.
Tensors of weights are of x's dtype; MXFP4 is widened exactly. Both inner sizes are multiples of 32
with MXFP4. A new tensor of x's dtype; T may be 0. Of other tokens a token's result has a rounding
at most.
"""
