"""Jobs of mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.kernels.job import Job, Planned, Setting, size_of
from kernels.mix_experts import Experts, Mxfp4
from kernels.mix_experts.mxfp4 import widen
from kernels.route_experts import Routed, Routing


def plan(setting: Setting) -> Iterator[Planned]:
    """Routing, then layers of experts in the run's type and in MXFP4."""
    sizes = setting.sizes
    for rows in sizes.rows:
        shape = f"{rows} x {sizes.experts[0]}, {sizes.experts[1]} chosen"
        yield Planned("route_experts", shape, partial(_route, setting, rows))
    for rows in sizes.expert_rows:
        for is_mxfp4, layer in ((False, sizes.experts), (True, sizes.narrow_experts)):
            number, chosen, hidden, inner = layer
            kind = "mxfp4" if is_mxfp4 else "plain"
            shape = f"{rows} tokens, {chosen} of {number} experts {hidden} x {inner}, {kind}"
            yield Planned("mix_experts", shape, partial(_mix, setting, rows, is_mxfp4))


def _route(setting: Setting, rows: int) -> Job:
    number, chosen, _, _ = setting.sizes.experts
    logits = setting.numbers(rows, number, dtype=torch.float32)

    def composed() -> Tensor:
        weights, _ = logits.softmax(-1).topk(chosen, -1)
        return weights / weights.sum(-1, keepdim=True)

    return Job(
        (logits, Routing(chosen)),
        size_of(logits) + rows * chosen * 8,
        composed=composed,
        result=lambda returned: returned.weights if isinstance(returned, Routed) else returned,
    )


def _mix(setting: Setting, rows: int, is_mxfp4: bool) -> Job:
    sizes = setting.sizes
    number, chosen, hidden, inner = sizes.narrow_experts if is_mxfp4 else sizes.experts
    x = setting.numbers(rows, hidden)
    asked = torch.rand((rows, number), device=setting.device).topk(chosen, -1).indices.int()
    weights = torch.rand((rows, chosen), device=setting.device).softmax(-1)
    make = _narrow if is_mxfp4 else _plain
    up, down = make(setting, number, 2 * inner, hidden), make(setting, number, hidden, inner)
    experts = Experts(up, down)
    num_touched = len(set(asked.flatten().tolist()))
    per_expert = (_bytes(experts.gate_up) + _bytes(experts.down)) / number
    return Job(
        (x, Routed(asked, weights), experts),
        num_touched * per_expert + size_of(x, x, asked, weights),
        2.0 * rows * chosen * 3 * hidden * inner,
        composed=partial(_compose, x, Routed(asked, weights), experts),
        composed_is_on_host=True,
    )


def _plain(setting: Setting, number: int, outputs: int, inputs: int) -> Tensor:
    return setting.numbers(number, outputs, inputs).mul_(inputs**-0.5)


def _narrow(setting: Setting, number: int, outputs: int, inputs: int) -> Mxfp4:
    device = setting.device
    return Mxfp4(
        torch.randint(0, 256, (number, outputs, inputs // 2), dtype=torch.uint8, device=device),
        torch.randint(118, 122, (number, outputs, inputs // 32), dtype=torch.uint8, device=device),
    )


def _bytes(matrices: Tensor | Mxfp4) -> int:
    if isinstance(matrices, Mxfp4):
        return size_of(matrices.values, matrices.scales)
    return size_of(matrices)


def _compose(x: Tensor, routed: Routed, experts: Experts) -> Tensor:
    """As transformers does: expert by expert, what they say added by index."""
    out = torch.zeros_like(x)
    for expert in sorted(set(routed.experts.flatten().tolist())):
        token, place = torch.where(routed.experts == expert)
        gate, up = F.linear(x[token], _one(experts.gate_up, expert, x.dtype)).chunk(2, -1)
        said = F.linear(F.silu(gate) * up, _one(experts.down, expert, x.dtype))
        out.index_add_(0, token, (said * routed.weights[token, place, None]).to(x.dtype))
    return out


def _one(matrices: Tensor | Mxfp4, expert: int, dtype: torch.dtype) -> Tensor:
    if isinstance(matrices, Mxfp4):
        return widen(Mxfp4(matrices.values[expert], matrices.scales[expert]), dtype)
    return matrices[expert]
