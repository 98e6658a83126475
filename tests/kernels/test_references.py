"""The references against definitions written a second time, in float64, token by token."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.case import Arguments, Case

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, ...]:
    rows = []
    for row in x.double():
        mean = sum(value * value for value in row.tolist()) / len(row)
        rows.append(row / math.sqrt(mean + eps) * weight.double())
    return (torch.stack(rows) if rows else x.double(),)


def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, ...]:
    total = (x + residual).clone()
    return (*_rms_norm(total, weight, eps), total, x.clone(), residual.clone())


def _silu_mul(gate_up: Tensor) -> tuple[Tensor, ...]:
    gate, up = gate_up.double().chunk(2, dim=-1)
    return (gate * torch.sigmoid(gate) * up,)


def _gelu_tanh_mul(gate_up: Tensor) -> tuple[Tensor, ...]:
    gate, up = gate_up.double().chunk(2, dim=-1)
    # tanh by its exponentials, as 1 + tanh(z) = 2 / (1 + exp(-2 z)).
    z = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    return (gate / (1 + torch.exp(-2 * z)) * up,)


def _take_rows(table: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
    rows = [table[token_id].clone() for token_id in ids.tolist()]
    return (torch.stack(rows) if rows else table.new_empty(0, table.shape[1]),)


def _qk_norm_rope_write(qkv: Any, norm: Any, rotary: Any, kv: Any, slots: Any) -> Any:
    num_kv_heads, head_dim = kv.shape[2], kv.shape[4]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    # An arena beyond 32-bit offsets is too big for a second one: only what is written is compared.
    is_far = kv.numel() > 2**31
    arena = kv if is_far else kv.double().clone()
    queries = torch.zeros(qkv.shape[0], num_heads, head_dim, dtype=torch.float64)
    for token in range(qkv.shape[0]):
        heads = qkv[token].double().split(head_dim)
        for head, vector in enumerate(heads[: num_heads + num_kv_heads]):
            if norm is not None:
                (vector,) = _rms_norm(vector[None], norm.weight[head], norm.eps)
                vector = vector[0]
            width = rotary.cos.shape[1]
            cos, sin = rotary.cos[token].double(), rotary.sin[token].double()
            turned = torch.cat((_rotate(vector[:width], cos, sin), vector[width:]))
            if head < num_heads:
                queries[token, head] = turned
            else:
                at = slots.blocks[token], 0, head - num_heads, slots.offsets[token]
                arena[at] = turned
        for head, vector in enumerate(heads[num_heads + num_kv_heads :]):
            arena[slots.blocks[token], 1, head, slots.offsets[token]] = vector
    if is_far:
        return queries, arena[slots.blocks, :, :, slots.offsets]
    return queries, arena, qkv.clone()


def _rotate(vector: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As complex numbers: the first half real, the second imaginary."""
    half = len(vector) // 2
    turned = torch.complex(vector[:half], vector[half:]) * torch.complex(cos[:half], sin[:half])
    return torch.cat((turned.real, turned.imag))


def _paged_attention(
    q: Tensor, kv: Tensor, batch: Any, scale: float, variant: Any
) -> tuple[Tensor, ...]:
    num_kv_heads, block_size = kv.shape[2], kv.shape[3]
    out = torch.zeros(q.shape, dtype=torch.float64)
    row = 0
    for index, query_len in enumerate(batch.query_lens):
        for ahead in reversed(range(query_len)):
            num_seen = int(batch.context_lens[index]) - ahead
            first = 0 if variant.window is None else max(0, num_seen - variant.window)
            places = [
                (int(batch.block_tables[index, at // block_size]), at % block_size)
                for at in range(first, num_seen)
            ]
            seen = torch.stack([kv[block, :, :, offset] for block, offset in places]).double()
            for head in range(q.shape[1]):
                key_head = head * num_kv_heads // q.shape[1]
                scores = seen[:, 0, key_head] @ q[row, head].double() * scale
                if variant.soft_cap is not None:
                    scores = (scores / variant.soft_cap).tanh() * variant.soft_cap
                total = scores.logsumexp(0)
                if variant.sinks is not None:
                    total = torch.logaddexp(total, variant.sinks[head].double())
                out[row, head] = (scores - total).exp() @ seen[:, 1, key_head]
            row += 1
    return (out,)


_DEFINITIONS = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "silu_mul": _silu_mul,
    "gelu_tanh_mul": _gelu_tanh_mul,
    "take_rows": _take_rows,
    "qk_norm_rope_write": _qk_norm_rope_write,
    "paged_attention": _paged_attention,
}


def _grid() -> list[Any]:
    return [
        pytest.param(op, case, id=f"{op}-{case.name}")
        for op in _DEFINITIONS
        for case in import_module(f"kernels.{op}.cases").CASES
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "case"), _grid())
def test_reference_agrees_with_a_second_definition(op: str, case: Case, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    wanted = _DEFINITIONS[op](*case.make("cpu"))
    arguments: Arguments = case.make(device)

    result = import_module(f"kernels.{op}.reference").run(*arguments)

    for got, expected in zip(case.observe(arguments, result), wanted, strict=True):
        torch.testing.assert_close(
            got.cpu().double(),
            expected.double(),
            atol=case.tolerance.atol,
            rtol=case.tolerance.rtol,
        )
