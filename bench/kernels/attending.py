"""Jobs of attention: decode, prefill and compressed (MLA)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.kernels import peers
from bench.kernels.job import Job, Planned, Setting, size_of
from kernels.paged_attention import AttentionBatch


def plan(setting: Setting) -> Iterator[Planned]:
    """Batches of equal contexts for decode, one prompt for prefill."""
    sizes = setting.sizes
    heads = f"{sizes.num_heads}/{sizes.num_kv_heads} heads of {sizes.head_dim}"
    for num_sequences, context in sizes.contexts:
        shape = f"decode {num_sequences} x {context}, {heads}"
        yield Planned("paged_attention", shape, partial(_decode, setting, num_sequences, context))
    rows = sizes.rows[1]
    yield Planned("paged_attention", f"prefill {rows}, {heads}", partial(_prefill, setting, rows))
    num_heads, num_sequences, context = sizes.mla
    yield Planned(
        "mla_decode", f"{num_sequences} x {context}, {num_heads} heads", partial(_mla, setting)
    )


def _batch(setting: Setting, num_sequences: int, query_len: int, context: int) -> AttentionBatch:
    """Sequences whose blocks lie all over the arena."""
    per_sequence = -(-context // setting.sizes.block_size)
    blocks = torch.randperm(num_sequences * per_sequence, device=setting.device).int()
    return AttentionBatch(
        block_tables=blocks.view(num_sequences, per_sequence),
        query_start=torch.arange(num_sequences + 1, device=setting.device).int() * query_len,
        context_lens=torch.full((num_sequences,), context, device=setting.device).int(),
        query_lens=(query_len,) * num_sequences,
        host_context_lens=(context,) * num_sequences,
    )


def _layer(setting: Setting, batch: AttentionBatch) -> Tensor:
    """One layer's view of an arena of four."""
    sizes = setting.sizes
    return setting.numbers(
        batch.block_tables.numel(), 4, 2, sizes.num_kv_heads, sizes.block_size, sizes.head_dim
    )[:, 1]


def _gather(kv: Tensor, tables: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Keys and values [B, num_kv_heads, context, head_dim]."""
    blocks = kv[tables.long()].permute(2, 0, 3, 1, 4, 5)
    keys, values = blocks.flatten(3, 4)[:, :, :, :context]
    return keys, values


def _decode(setting: Setting, num_sequences: int, context: int) -> Job:
    return _attention(setting, _batch(setting, num_sequences, 1, context), context)


def _prefill(setting: Setting, rows: int) -> Job:
    return _attention(setting, _batch(setting, 1, rows, rows), rows)


def _attention(setting: Setting, batch: AttentionBatch, context: int) -> Job:
    sizes = setting.sizes
    kv = _layer(setting, batch)
    num_sequences, query_len = len(batch.query_lens), batch.query_lens[0]
    q = setting.numbers(num_sequences * query_len, sizes.num_heads, sizes.head_dim)
    scale = sizes.head_dim**-0.5

    def composed() -> Tensor:
        keys, values = _gather(kv, batch.block_tables, context)
        queries = q.view(num_sequences, query_len, *q.shape[1:]).transpose(1, 2)
        out = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=query_len > 1, scale=scale, enable_gqa=True
        )
        return out.transpose(1, 2).flatten(0, 1)

    num_read = num_sequences * context * 2 * sizes.num_kv_heads * sizes.head_dim * kv.itemsize
    num_pairs = num_sequences * (query_len * context - query_len * (query_len - 1) // 2)
    return Job(
        (q, kv, batch, scale),
        num_read + size_of(q, q),
        4.0 * num_pairs * sizes.num_heads * sizes.head_dim,
        composed=composed,
        peers=peers.attention(q, kv, batch, scale) if setting.device != "cpu" else {},
    )


def _mla(setting: Setting) -> Job:
    num_heads, num_sequences, context = setting.sizes.mla
    latent, rotated = 512, 64
    batch = _batch(setting, num_sequences, 1, context)
    kv = setting.numbers(batch.block_tables.numel(), setting.sizes.block_size, latent + rotated)
    q = setting.numbers(num_sequences, num_heads, latent + rotated)
    scale = (128 + rotated) ** -0.5

    def composed() -> Tensor:
        keys = kv[batch.block_tables.long()].flatten(1, 2)[:, None, :context]
        out = F.scaled_dot_product_attention(
            q[:, :, None], keys, keys[..., :latent], scale=scale, enable_gqa=True
        )
        return out[:, :, 0]

    return Job(
        (q, kv, batch, scale, latent),
        num_sequences * context * (latent + rotated) * kv.itemsize + size_of(q, q),
        2.0 * num_sequences * num_heads * context * (2 * latent + rotated),
        composed=composed,
    )
