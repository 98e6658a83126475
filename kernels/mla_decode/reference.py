"""Attention over compressed keys and values: the definition, one sequence at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.paged_attention import AttentionBatch


def run(q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float, latent_dim: int) -> Tensor:
    """See the contract."""
    out = torch.empty((*q.shape[:2], latent_dim), dtype=q.dtype, device=q.device)
    start = 0
    for index, query_len in enumerate(batch.query_lens):
        rows = slice(start, start + query_len)
        start += query_len
        context_len = batch.host_context_lens[index]
        table = batch.block_tables[index, : -(-context_len // kv.shape[1])].long()
        context = kv[table].flatten(0, 1)[:context_len].float()
        position = torch.arange(context_len, device=q.device)
        is_hidden = position > position[context_len - query_len :, None]
        scores = (q[rows].float() @ context.T * scale).transpose(0, 1)
        weights = scores.masked_fill(is_hidden, float("-inf")).softmax(-1)
        out[rows] = (weights @ context[:, :latent_dim]).transpose(0, 1).to(q.dtype)
    return out
