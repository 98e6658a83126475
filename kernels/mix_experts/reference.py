"""Mixing experts: the definition, one token and one expert at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.mix_experts import Activation, Experts, Mxfp4
from kernels.mix_experts.mxfp4 import widen
from kernels.route_experts import Routed


def run(x: Tensor, routed: Routed, experts: Experts) -> Tensor:
    """See the contract."""
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for token, choices in enumerate(routed.experts.tolist()):
        for place, expert in enumerate(choices):
            if 0 <= expert < _num_experts(experts):
                said = _ask(x[token], experts, expert)
                out[token] += routed.weights[token, place] * said
    return out.to(x.dtype)


def activate(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """See `Activation`; float32 in, float32 out."""
    gate = gate.clamp(max=activation.limit)
    up = up.clamp(-activation.limit, activation.limit)
    return gate * torch.sigmoid(activation.alpha * gate) * (up + activation.offset)


def _ask(x: Tensor, experts: Experts, expert: int) -> Tensor:
    gate, up = _apply(experts.gate_up, experts.gate_up_bias, expert, x).chunk(2)
    inner = activate(gate, up, experts.activation).to(x.dtype)
    return _apply(experts.down, experts.down_bias, expert, inner)


def _apply(matrices: Tensor | Mxfp4, bias: Tensor | None, expert: int, x: Tensor) -> Tensor:
    if isinstance(matrices, Mxfp4):
        matrix = widen(Mxfp4(matrices.values[expert], matrices.scales[expert]))
    else:
        matrix = matrices[expert].float()
    product = matrix @ x.float()
    return product if bias is None else product + bias[expert].float()


def _num_experts(experts: Experts) -> int:
    down = experts.down
    return (down.values if isinstance(down, Mxfp4) else down).shape[0]
