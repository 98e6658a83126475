"""Choosing experts on a GPU: one token per program, all experts in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch
from kernels.route_experts import Routed, Routing


@triton.jit
def first_largest(x, at, SIZE: tl.constexpr):
    """The largest value and, of those equal to it, the lowest place."""
    largest = tl.max(x, 0)
    return largest, tl.min(tl.where(x == largest, at, SIZE), 0)


@triton.jit
def keep_best_groups(
    choice,
    expert,
    GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    CHOSEN: tl.constexpr,
    EXPERTS: tl.constexpr,
    GROUPS_WIDTH: tl.constexpr,
):
    """Choice scores, minus infinity outside of the best groups."""
    group_id = tl.arange(0, GROUPS_WIDTH)
    standing = tl.full((GROUPS_WIDTH,), float("-inf"), tl.float32)
    for group in tl.static_range(GROUPS):
        mine = tl.where(expert // GROUP_SIZE == group, choice, float("-inf"))
        best, place = first_largest(mine, expert, EXPERTS)
        if GROUP_SIZE > 1:
            best += tl.max(tl.where(expert == place, float("-inf"), mine), 0)
        standing = tl.where(group_id == group, best, standing)
    is_kept = expert < 0
    for _ in tl.static_range(CHOSEN):
        _, group = first_largest(standing, group_id, GROUPS_WIDTH)
        is_kept = is_kept | (expert // GROUP_SIZE == group)
        standing = tl.where(group_id == group, float("-inf"), standing)
    return tl.where(is_kept, choice, float("-inf"))


@triton.jit
def route(
    logits_ptr,
    bias_ptr,
    experts_ptr,
    weights_ptr,
    num_experts,
    stride,
    scale,
    CHOSEN: tl.constexpr,
    CHOSEN_WIDTH: tl.constexpr,
    EXPERTS: tl.constexpr,
    IS_SIGMOID: tl.constexpr,
    IS_NORMALISED: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    CHOSEN_GROUPS: tl.constexpr,
    GROUPS_WIDTH: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, EXPERTS)
    is_expert = expert < num_experts
    logits = tl.load(logits_ptr + token * stride + expert, mask=is_expert, other=float("-inf"))
    logits = logits.to(tl.float32)
    if IS_SIGMOID:
        scores = 1 / (1 + tl.exp(-logits))
    else:
        powers = tl.exp(logits - tl.max(logits, 0))
        scores = powers / tl.sum(powers, 0)
    choice = scores
    if bias_ptr is not None:
        choice += tl.load(bias_ptr + expert, mask=is_expert, other=0.0)
    choice = tl.where(is_expert, choice, float("-inf"))
    if CHOSEN_GROUPS < GROUPS:
        choice = keep_best_groups(
            choice, expert, GROUPS, GROUP_SIZE, CHOSEN_GROUPS, EXPERTS, GROUPS_WIDTH
        )
    rank = tl.arange(0, CHOSEN_WIDTH)
    chosen = tl.full((CHOSEN_WIDTH,), 0, tl.int32)
    weights = tl.full((CHOSEN_WIDTH,), 0.0, tl.float32)
    for place in tl.static_range(CHOSEN):
        _, best = first_largest(choice, expert, EXPERTS)
        weight = tl.sum(tl.where(expert == best, scores, 0.0), 0)
        chosen = tl.where(rank == place, best, chosen)
        weights = tl.where(rank == place, weight, weights)
        choice = tl.where(expert == best, float("-inf"), choice)
    if IS_NORMALISED:
        weights = weights / tl.sum(weights, 0)
    is_rank = rank < CHOSEN
    tl.store(experts_ptr + token * CHOSEN + rank, chosen, mask=is_rank)
    tl.store(weights_ptr + token * CHOSEN + rank, weights * scale, mask=is_rank)


def run(logits: Tensor, routing: Routing) -> Routed:
    """See the contract."""
    num_tokens, num_experts = logits.shape
    size = (num_tokens, routing.num_chosen)
    routed = Routed(
        torch.empty(size, dtype=torch.int32, device=logits.device),
        torch.empty(size, dtype=torch.float32, device=logits.device),
    )
    if num_tokens:
        route[(num_tokens,)](
            logits,
            routing.bias,
            routed.experts,
            routed.weights,
            num_experts,
            logits.stride(0),
            routing.scale,
            **_constants(num_experts, routing),
            num_warps=1,
        )
    return routed


def _constants(num_experts: int, routing: Routing) -> dict[str, int | bool]:
    return {
        "CHOSEN": routing.num_chosen,
        "CHOSEN_WIDTH": triton.next_power_of_2(routing.num_chosen),
        "EXPERTS": triton.next_power_of_2(num_experts),
        "IS_SIGMOID": routing.is_sigmoid,
        "IS_NORMALISED": routing.is_normalised,
        "GROUPS": routing.num_groups,
        "GROUP_SIZE": num_experts // routing.num_groups,
        "CHOSEN_GROUPS": routing.num_chosen_groups,
        "GROUPS_WIDTH": triton.next_power_of_2(routing.num_groups),
    }


def _launch(name: str, num_experts: int, routing: Routing, has_bias: bool) -> Launch:
    return Launch(
        name,
        route,
        {
            "logits_ptr": "*fp32:16",
            "experts_ptr": "*i32:16",
            "weights_ptr": "*fp32:16",
            "num_experts": "i32:16",
            "stride": "i32:16",
            "scale": "fp32",
            **({"bias_ptr": "*fp32:16"} if has_bias else {}),
        },
        {**_constants(num_experts, routing), **({} if has_bias else {"bias_ptr": None})},
        num_warps=1,
    )


LAUNCHES = (
    _launch("qwen3-30b-a3b", 128, Routing(8), False),
    _launch("gpt-oss-120b", 128, Routing(4), False),
    _launch(
        "deepseek-v3",
        256,
        Routing(8, is_sigmoid=True, scale=2.5, num_groups=8, num_chosen_groups=4),
        True,
    ),
)
