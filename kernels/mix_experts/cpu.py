"""Mixing experts on a CPU: one pair of products for each expert that any token asks."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from kernels.mix_experts import Experts, Mxfp4
from kernels.mix_experts.mxfp4 import widen
from kernels.mix_experts.reference import activate
from kernels.route_experts import Routed


def run(x: Tensor, routed: Routed, experts: Experts) -> Tensor:
    """See the contract."""
    num_experts = _whole(experts.down).shape[0]
    asked = routed.experts.flatten()
    num_chosen = routed.experts.shape[1]
    said = torch.zeros((asked.numel(), x.shape[1]), dtype=torch.float32)
    order = asked.argsort(stable=True)
    start = 0
    for expert, count in Counter(asked[order].tolist()).items():  # in order, as they come
        slots = order[start : start + count]
        start += count
        if 0 <= expert < num_experts:
            said[slots] = _ask(x[slots // num_chosen], experts, expert)
    weighted = said.view(*routed.experts.shape, x.shape[1]) * routed.weights[..., None]
    out = torch.zeros(x.shape, dtype=torch.float32)
    for place in range(num_chosen):  # in order, as the contract says
        out += weighted[:, place]
    return out.to(x.dtype)


def _ask(x: Tensor, experts: Experts, expert: int) -> Tensor:
    gate, up = _apply(experts.gate_up, experts.gate_up_bias, expert, x).chunk(2, -1)
    inner = activate(gate, up, experts.activation).to(x.dtype)
    return _apply(experts.down, experts.down_bias, expert, inner)


def _apply(matrices: Tensor | Mxfp4, bias: Tensor | None, expert: int, x: Tensor) -> Tensor:
    """Float32 [rows, outputs]."""
    if isinstance(matrices, Mxfp4):
        one = Mxfp4(matrices.values[expert], matrices.scales[expert])
        matrix = widen(one, x.dtype)
    else:
        matrix = matrices[expert]
    product = (x @ matrix.T).float()
    return product if bias is None else product + bias[expert].float()


def _whole(matrices: Tensor | Mxfp4) -> Tensor:
    return matrices.values if isinstance(matrices, Mxfp4) else matrices
