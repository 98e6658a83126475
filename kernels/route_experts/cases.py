"""Cases of route_experts. Experts must be the same, so ties are made and near ties are not."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.case import Arguments, Case, Tolerance, normal
from kernels.route_experts import Routed, Routing


def make(
    device: str, size: tuple[int, int], routing: dict[str, Any], dtype: torch.dtype, step: float
) -> Arguments:
    """Logits that are multiples of `step`: many of them equal, others clearly not."""
    logits = (normal(size, seed=4) * 2 / step).round() * step
    bias = routing.get("bias")
    if bias:
        # Multiples of 1/8 between -1 and 1, so that the bias decides most choices.
        steps = (normal((size[1],), seed=5) * 4).round().clamp(-8, 8) / 8
        routing = {**routing, "bias": steps.to(device)}
    return logits.to(dtype).to(device), Routing(**routing)


def _observe(_: Arguments, routed: Routed) -> tuple[Tensor, ...]:
    return routed.experts, routed.weights


# Sums of up to some hundred exponentials in another order, float32.
_FLOAT32 = Tolerance(1e-6, 1e-5)


def _case(
    name: str,
    size: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    step: float = 1 / 64,
    **routing: Any,
) -> Case:
    made = partial(make, size=size, routing=routing, dtype=dtype, step=step)
    return Case(name, made, _FLOAT32, _observe)


_GROUPS: dict[str, Any] = {
    "is_sigmoid": True,
    "bias": True,
    "num_groups": 4,
    "num_chosen_groups": 2,
    "scale": 2.5,
}

CASES = (
    _case("eight of 32", (3, 32), num_chosen=8),
    _case("no tokens", (0, 32), num_chosen=8),
    _case("one expert", (2, 1), num_chosen=1),
    _case("all experts", (2, 6), num_chosen=6),
    _case("weights as they are", (3, 60), num_chosen=4, is_normalised=False, scale=0.5),
    _case("all equal", (2, 16), num_chosen=5, step=1e6),
    _case("many equal", (5, 128), num_chosen=8, step=1.0),
    _case("none equal, many tokens", (33, 128), num_chosen=4, step=2**-12),
    _case("sigmoid with bias", (4, 24), num_chosen=3, is_sigmoid=True, bias=True),
    _case("groups", (4, 32), num_chosen=4, **_GROUPS),
    _case("groups of one", (4, 4), num_chosen=2, **_GROUPS),
    _case("bfloat16 logits", (3, 128), num_chosen=8, dtype=torch.bfloat16, step=1 / 16),
    _case("as DeepSeek-V3", (5, 256), num_chosen=8, **{**_GROUPS, "num_groups": 8}),
)
