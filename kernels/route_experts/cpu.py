"""Choosing experts on CPUs: a partial ranking, unless experts are equal."""

from __future__ import annotations

from torch import Tensor

from kernels.route_experts import Routed, Routing, reference

_FEW = 4096  # logits: below, sorting them takes no longer than looking for ties


def run(logits: Tensor, routing: Routing) -> Routed:
    """See the contract. Groups and small batches are the reference's."""
    count, has_groups = routing.num_chosen, routing.num_chosen_groups < routing.num_groups
    if has_groups or count >= logits.shape[1] or logits.numel() < _FEW:
        return reference.run(logits, routing)
    scores = logits.float().sigmoid() if routing.is_sigmoid else logits.float().softmax(-1)
    choice = scores if routing.bias is None else scores + routing.bias
    best, experts = choice.topk(count + 1, dim=-1)
    # Which of equal experts topk takes first is not said.
    if (best[:, 1:] == best[:, :-1]).any():
        return reference.run(logits, routing)
    experts = experts[:, :count]
    weights = scores.gather(1, experts)
    if routing.is_normalised:
        weights = weights / weights.sum(-1, keepdim=True)
    return Routed(experts.int(), weights * routing.scale)
