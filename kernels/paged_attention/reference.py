"""Paged attention: the definition, one sequence at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.paged_attention import AttentionBatch


def run(q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float) -> Tensor:
    """See the contract."""
    out = torch.empty_like(q)
    start = 0
    for index, query_len in enumerate(batch.query_lens):
        rows = slice(start, start + query_len)
        start += query_len
        if query_len:
            context = _gather(kv, batch.block_tables[index], batch.host_context_lens[index])
            out[rows] = _attend(q[rows].float(), context, scale).to(q.dtype)
    return out


def _gather(kv: Tensor, table: Tensor, context_len: int) -> Tensor:
    """A sequence's keys and values in float32: [2, num_kv_heads, context_len, head_dim]."""
    num_blocks = -(-context_len // kv.shape[3])
    blocks = kv[table[:num_blocks].long()].float()
    return blocks.permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :context_len]


def _attend(q: Tensor, context: Tensor, scale: float) -> Tensor:
    keys, values = context
    num_kv_heads, context_len, head_dim = keys.shape
    query_len, num_heads, _ = q.shape
    grouped = q.view(query_len, num_kv_heads, num_heads // num_kv_heads, head_dim)
    scores = torch.einsum("qhgd,hkd->hgqk", grouped, keys) * scale
    key_position = torch.arange(context_len, device=q.device)
    query_position = key_position[context_len - query_len :]
    scores.masked_fill_(key_position > query_position[:, None], float("-inf"))
    return torch.einsum("hgqk,hkd->qhgd", scores.softmax(-1), values).flatten(1, 2)
