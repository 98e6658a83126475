"""Paged attention: the definition, one sequence at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.paged_attention import PLAIN, AttentionBatch, Variant, fixed


def run(
    q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float, variant: Variant = PLAIN
) -> Tensor:
    """See the contract."""
    if batch.piece_len is not None:
        return fixed.run(q, kv, batch, scale, variant)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    start = 0
    for index, query_len in enumerate(batch.query_lens):
        rows = slice(start, start + query_len)
        start += query_len
        if query_len:
            context = _gather(kv, batch.block_tables[index], batch.host_context_lens[index])
            out[rows] = _attend(q[rows].float(), context, scale, variant).to(q.dtype)
    return out


def _gather(kv: Tensor, table: Tensor, context_len: int) -> Tensor:
    """A sequence's keys and values in float32: [2, num_kv_heads, context_len, head_dim]."""
    num_blocks = -(-context_len // kv.shape[3])
    blocks = kv[table[:num_blocks].long()].float()
    return blocks.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :context_len]


def _attend(q: Tensor, context: Tensor, scale: float, variant: Variant) -> Tensor:
    keys, values = context
    num_kv_heads, context_len, head_dim = keys.shape
    query_len, num_heads, _ = q.shape
    grouped = q.reshape(query_len, num_kv_heads, num_heads // num_kv_heads, head_dim)
    scores = torch.einsum("qhgd,hkd->hgqk", grouped, keys) * scale
    if variant.soft_cap is not None:
        scores = variant.soft_cap * torch.tanh(scores / variant.soft_cap)
    key_position = torch.arange(context_len, device=q.device)
    age = key_position[context_len - query_len :, None] - key_position
    is_hidden = age < 0
    if variant.window is not None:
        is_hidden |= age >= variant.window
    scores.masked_fill_(is_hidden, float("-inf"))
    if variant.sinks is not None:
        sinks = variant.sinks.view(num_kv_heads, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, sinks), dim=-1)
    weights = scores.softmax(-1)[..., :context_len]
    return torch.einsum("hgqk,hkd->qhgd", weights, values).flatten(1, 2)
