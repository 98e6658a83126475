"""Choosing experts: the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.route_experts import Routed, Routing


def run(logits: Tensor, routing: Routing) -> Routed:
    """See the contract."""
    scores = logits.float().sigmoid() if routing.is_sigmoid else logits.float().softmax(-1)
    choice = scores if routing.bias is None else scores + routing.bias
    if routing.num_chosen_groups < routing.num_groups:
        choice = choice.masked_fill(~_is_in_best_groups(choice, routing), float("-inf"))
    experts = choice.argsort(dim=-1, descending=True, stable=True)[:, : routing.num_chosen]
    weights = scores.gather(1, experts)
    if routing.is_normalised:
        weights = weights / weights.sum(-1, keepdim=True)
    return Routed(experts.int(), weights * routing.scale)


def _is_in_best_groups(choice: Tensor, routing: Routing) -> Tensor:
    """[T, E] bool."""
    grouped = choice.view(
        choice.shape[0], routing.num_groups, choice.shape[1] // routing.num_groups
    )
    standing = grouped.topk(min(2, grouped.shape[2]), -1).values.sum(-1)
    best = standing.argsort(dim=-1, descending=True, stable=True)[:, : routing.num_chosen_groups]
    is_best = torch.zeros_like(standing, dtype=torch.bool).scatter(1, best, True)
    return is_best.repeat_interleave(grouped.shape[2], 1)
