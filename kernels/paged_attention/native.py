"""Paged attention on CPUs, native: blocks are read where they lie, in tiles of 64 keys."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.native import library
from kernels.native.decoder import chunks_of
from kernels.native.library import Heads, arena_of, find, is_float_arena, num_threads
from kernels.paged_attention import PLAIN, AttentionBatch, Variant, cpu


def run(
    q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float, variant: Variant = PLAIN
) -> Tensor:
    """See the contract. Other types than float32 are torch's. No bit depends on batch or chunks."""
    if q.dtype != torch.float32 or not is_float_arena(kv) or batch.block_tables.stride(-1) != 1:
        return cpu.run(q, kv, batch, scale, variant)
    q = q.contiguous()
    out = torch.empty_like(q)
    heads = Heads(q.shape[1], kv.shape[2], q.shape[2])
    sinks = None if variant.sinks is None else variant.sinks.float().contiguous()
    departures = library.Variant(
        *(variant.window or 0, variant.soft_cap or 0.0),
        None if sinks is None else sinks.data_ptr(),
    )
    find().baton_paged_attention(
        *(q.data_ptr(), heads, arena_of(kv), chunks_of(batch), scale),
        *(departures, out.data_ptr(), num_threads()),
    )
    return out
