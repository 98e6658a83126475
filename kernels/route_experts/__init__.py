"""Chooses each token's experts and their weights: the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """How a model's router reads its logits."""

    num_chosen: int
    """Experts for each token."""
    is_sigmoid: bool = False
    """Scores are sigmoids of the logits (DeepSeek-V3), else their softmax over all experts."""
    is_normalised: bool = True
    """Weights of a token add up to `scale`."""
    scale: float = 1.0
    """Weights are multiplied by it."""
    num_groups: int = 1
    """Experts stand in that many groups of equal size; experts are chosen from the best of them."""
    num_chosen_groups: int = 1
    """A group counts by the sum of its best two choice scores."""
    bias: Tensor | None = None
    """[E] float32, added to scores to choose by; weights come from scores without it."""


@dataclass(frozen=True, slots=True)
class Routed:
    """Experts of T tokens, best first."""

    experts: Tensor
    """[T, num_chosen] int32."""
    weights: Tensor
    """[T, num_chosen] float32."""


RouteExperts: TypeAlias = Callable[[Tensor, Routing], Routed]
"""`run(logits [T, E], routing) -> Routed`.

Computed in float32. Of experts that are equal the one of lower id comes first, and so of groups.
With `is_normalised` weights are scores over their sum; a softmax over the chosen logits alone
(gpt-oss, Mixtral) is the same. A token's result does not depend on the others. Logits are finite; T
may be 0.
"""
