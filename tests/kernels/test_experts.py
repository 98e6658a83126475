"""Experts: references against a second definition, 4-bit floats by hand, tokens among others."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.case import Case, normal
from kernels.mix_experts import Activation, Experts, Mxfp4
from kernels.mix_experts import cases as mixing
from kernels.mix_experts.mxfp4 import MAGNITUDES, narrow, widen
from kernels.route_experts import Routed, Routing
from kernels.route_experts import cases as routing_cases
from kernels.route_experts.reference import run as route


def _route_by_hand(logits: list[float], routing: Routing) -> list[tuple[int, float]]:
    """Experts and weights of one token, with Python's own sorting."""
    if routing.is_sigmoid:
        scores = [1 / (1 + math.exp(-logit)) for logit in logits]
    else:
        scores = [math.exp(logit - max(logits)) for logit in logits]
        scores = [score / math.fsum(scores) for score in scores]
    bias = [0.0] * len(logits) if routing.bias is None else routing.bias.tolist()
    choice = [score + extra for score, extra in zip(scores, bias, strict=True)]
    size = len(logits) // routing.num_groups

    def standing(group: int) -> float:
        return sum(sorted(choice[group * size : (group + 1) * size])[-2:])

    # Python's sort keeps the order of equals: lower ids first.
    groups = sorted(range(routing.num_groups), key=lambda group: -standing(group))
    groups = groups[: routing.num_chosen_groups]
    allowed = [expert for expert in range(len(logits)) if expert // size in groups]
    experts = sorted(allowed, key=lambda expert: -choice[expert])[: routing.num_chosen]
    whole = math.fsum(scores[expert] for expert in experts) if routing.is_normalised else 1.0
    return [(expert, scores[expert] / whole * routing.scale) for expert in experts]


@pytest.mark.parametrize("case", routing_cases.CASES, ids=lambda case: case.name)
def test_routing_agrees_with_a_second_definition(case: Case) -> None:
    logits, routing = case.make("cpu")

    routed = route(logits, routing)

    for token, row in enumerate(logits.double().tolist()):
        wanted = _route_by_hand(row, routing)
        assert routed.experts[token].tolist() == [expert for expert, _ in wanted]
        weights = [weight for _, weight in wanted]
        assert routed.weights[token].tolist() == pytest.approx(weights, rel=1e-5, abs=1e-6)


def test_a_softmax_over_the_chosen_logits_is_a_normalised_softmax_over_all() -> None:
    logits = normal((5, 32), seed=1)
    chosen = logits.topk(4, -1)

    routed = route(logits, Routing(4))

    assert torch.equal(routed.experts, chosen.indices.int())
    torch.testing.assert_close(routed.weights, chosen.values.softmax(-1))


def _mix_by_hand(x: Tensor, routed: Routed, experts: Experts) -> Tensor:
    """In float64, but for the one rounding that the contract names."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    gate_up, down = _whole(experts.gate_up), _whole(experts.down)
    shape = experts.activation
    for token in range(x.shape[0]):
        for place in range(routed.experts.shape[1]):
            expert = int(routed.experts[token, place])
            if not 0 <= expert < len(down):
                continue
            both = gate_up[expert] @ x[token].double()
            if experts.gate_up_bias is not None:
                both += experts.gate_up_bias[expert].double()
            gate, up = both[: len(both) // 2], both[len(both) // 2 :]
            gate, up = gate.clamp(max=shape.limit), up.clamp(-shape.limit, shape.limit)
            inner = gate / (1 + (-shape.alpha * gate).exp()) * (up + shape.offset)
            said = down[expert] @ inner.to(x.dtype).double()
            if experts.down_bias is not None:
                said += experts.down_bias[expert].double()
            out[token] += routed.weights[token, place].double() * said
    return out


def _whole(matrices: Tensor | Mxfp4) -> Tensor:
    """Float64, 4-bit floats as their standard reads: exponent bias 1, subnormals below it."""
    if not isinstance(matrices, Mxfp4):
        return matrices.double()
    codes = torch.stack((matrices.values % 16, matrices.values // 16), -1).flatten(-2).double()
    sign, exponent, mantissa = codes // 8, codes % 8 // 2, codes % 2
    magnitude = torch.where(
        exponent == 0, mantissa * 0.5, (1 + mantissa / 2) * 2.0 ** (exponent - 1)
    )
    scales = 2.0 ** (matrices.scales.double() - 127)
    return (1 - 2 * sign) * magnitude * scales.repeat_interleave(32, -1)


@pytest.mark.parametrize("case", mixing.CASES, ids=lambda case: case.name)
def test_mixing_agrees_with_a_second_definition(case: Case) -> None:
    x, routed, experts = case.make("cpu")

    got = import_module("kernels.mix_experts.reference").run(x, routed, experts)

    wanted = _mix_by_hand(x, routed, experts)
    tolerance = case.tolerance
    torch.testing.assert_close(got.double(), wanted, atol=tolerance.atol, rtol=tolerance.rtol)


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("is_mxfp4", [False, True])
def test_a_token_alone_says_what_it_says_among_others(name: str, is_mxfp4: bool) -> None:
    run = import_module(f"kernels.mix_experts.{name}").run
    shape = mixing.Shape(((2, 0), (3, 2), (0, 3), (0, 2)), is_mxfp4=is_mxfp4, hidden=64, inner=32)
    x, routed, experts = mixing.make("cpu", shape)

    together = run(x, routed, experts)

    for token in range(len(x)):
        one = slice(token, token + 1)
        alone = run(x[one], Routed(routed.experts[one], routed.weights[one]), experts)
        torch.testing.assert_close(alone, together[one], atol=5e-6, rtol=1e-5)


def test_shares_of_the_experts_add_up_to_the_whole() -> None:
    run = import_module("kernels.mix_experts.cpu").run
    x, routed, experts = mixing.make("cpu", mixing.Shape(has_bias=True, num_experts=4))
    shares = [Experts(*(each[first : first + 2] for each in _tensors(experts))) for first in (0, 2)]

    parts = [
        run(x, Routed(routed.experts - 2 * index, routed.weights), share)
        for index, share in enumerate(shares)
    ]

    whole = run(x, routed, experts)
    torch.testing.assert_close(parts[0] + parts[1], whole, atol=5e-6, rtol=1e-5)


def _tensors(experts: Experts) -> Any:
    return experts.gate_up, experts.down, experts.gate_up_bias, experts.down_bias


def test_activation_by_hand() -> None:
    activate = import_module("kernels.mix_experts.reference").activate
    gate, up = torch.tensor([1.0, 9.0, -9.0]), torch.tensor([2.0, 9.0, -9.0])

    plain = activate(gate, up, Activation())
    clamped = activate(gate, up, Activation(alpha=1.702, limit=7.0, offset=1.0))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert plain.tolist() == pytest.approx([2 * sigmoid(1), 81 * sigmoid(9), 81 * sigmoid(-9)])
    wanted = [3 * sigmoid(1.702), 56 * sigmoid(7 * 1.702), 54 * sigmoid(-9 * 1.702)]
    assert clamped.tolist() == pytest.approx(wanted, rel=1e-5)


def test_every_byte_widens_to_two_numbers_low_half_first() -> None:
    values = torch.arange(256).view(16, 16).to(torch.uint8)
    exponents = torch.arange(1, 17).view(16, 1) * 15

    made = widen(Mxfp4(values, exponents.to(torch.uint8)))

    for row in range(16):
        for column in range(16):
            byte, scale = row * 16 + column, 2.0 ** (exponents[row].item() - 127)
            low, high = (
                (-scale if half & 8 else scale) * MAGNITUDES[half & 7]
                for half in (byte & 15, byte >> 4)
            )
            assert made[row, 2 * column : 2 * column + 2].tolist() == [low, high]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-40, 40))
def test_what_is_4_bit_already_stays_as_it_is(seed: int, exponent: int) -> None:
    codes = torch.randint(0, 256, (3, 32), generator=torch.Generator().manual_seed(seed))
    codes[:, 0] = 0x77  # both at 6, so that the scale is told by the peak
    codes[:, 16] = 0x77
    matrix = Mxfp4(codes.to(torch.uint8), torch.full((3, 2), 127 + exponent, dtype=torch.uint8))

    again = narrow(widen(matrix))

    assert torch.equal(widen(again), widen(matrix))
    assert torch.equal(again.scales, matrix.scales)
