"""Paged attention whose bits depend on nothing but the token and its context: `batch.piece_len`.

One token at a time, in products of one shape only, since others may add up in another order. Slow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.paged_attention import PLAIN, AttentionBatch, Variant


def run(
    q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float, variant: Variant = PLAIN
) -> Tensor:
    """See the contract; `batch.piece_len` is given."""
    assert batch.piece_len is not None
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    row = 0
    for index, query_len in enumerate(batch.query_lens):
        context_len = batch.host_context_lens[index]
        pieces = _gather(kv, batch.block_tables[index], context_len, batch.piece_len)
        for position in range(context_len - query_len, context_len):
            out[row] = _attend(q[row].float(), pieces, position, scale, variant).to(q.dtype)
            row += 1
    return out


def _gather(kv: Tensor, table: Tensor, context_len: int, piece_len: int) -> Tensor:
    """[num_pieces, 2, num_kv_heads, piece_len, head_dim] float32; zeros behind the context."""
    num_kv_heads, block_size, head_dim = kv.shape[2:]
    num_pieces = -(-context_len // piece_len)
    padded = torch.zeros((2, num_kv_heads, num_pieces * piece_len, head_dim), device=kv.device)
    blocks = kv[table[: -(-context_len // block_size)].long()].float()
    context = blocks.permute(1, 2, 0, 3, 4).flatten(2, 3)
    padded[:, :, :context_len] = context[:, :, :context_len]
    split = padded.view(2, num_kv_heads, num_pieces, piece_len, head_dim)
    return split.permute(2, 0, 1, 3, 4).contiguous()


def _attend(q: Tensor, pieces: Tensor, position: int, scale: float, variant: Variant) -> Tensor:
    """One token's result [num_heads, head_dim]."""
    num_kv_heads, piece_len, head_dim = pieces.shape[2:]
    grouped = q.view(num_kv_heads, -1, head_dim)
    acc = torch.zeros_like(grouped)
    total = acc.new_zeros(grouped.shape[:2])
    peak = torch.full_like(total, float("-inf"))
    if variant.sinks is not None:
        peak, total = variant.sinks.view_as(total), torch.ones_like(total)
    for index in range(position // piece_len + 1):
        keys, values = pieces[index]
        scores = torch.bmm(grouped, keys.transpose(1, 2)) * scale
        if variant.soft_cap is not None:
            scores = variant.soft_cap * torch.tanh(scores / variant.soft_cap)
        age = position - index * piece_len - torch.arange(piece_len, device=q.device)
        is_hidden = (age < 0) | (age >= (variant.window or position + 1))
        if bool(is_hidden.all()):
            continue
        scores.masked_fill_(is_hidden, float("-inf"))
        new_peak = torch.maximum(peak, scores.amax(-1))
        weights = torch.exp(scores - new_peak[..., None])
        shrink = torch.exp(peak - new_peak)
        total = total * shrink + weights.sum(-1)
        acc = acc * shrink[..., None] + torch.bmm(weights, values)
        peak = new_peak
    return (acc / total[..., None]).flatten(0, 1)
