"""Paged attention on CPUs: sequences that decode share one gather and one attention call."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.paged_attention import PLAIN, AttentionBatch, Variant, fixed, reference

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk of several tokens of one sequence."""

    rows: slice
    blocks: Tensor
    """[num_blocks] block ids."""
    context_len: int
    mask: Tensor | None
    """[query_len, context_len], added to the scores; None: the chunk is the whole context."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences of similar length that compute one token each."""

    rows: Tensor | None
    """[B] rows of q; None: all of them, in order."""
    blocks: Tensor
    """[B * num_blocks] block ids."""
    context_len: int
    """Of the longest."""
    mask: Tensor | None
    """[1, B, 1, context_len], added to the scores; None: all are as long."""
    unused: tuple[Tensor, Tensor] | None
    """(sequence, position) of the slots behind shorter contexts."""


@dataclass(frozen=True, slots=True)
class _Plan:
    chunks: tuple[_Chunk, ...]
    groups: tuple[_Group, ...]


def run(
    q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float, variant: Variant = PLAIN
) -> Tensor:
    """See the contract."""
    if batch.piece_len is not None:
        return fixed.run(q, kv, batch, scale, variant)
    if variant is not PLAIN:
        _warn_of_variants()
        return reference.run(q, kv, batch, scale, variant)
    plan = batch.plans.get("cpu")
    if not isinstance(plan, _Plan):
        plan = _plan(batch, kv.shape[3], q.dtype)
        batch.plans["cpu"] = plan
    if not plan.chunks and len(plan.groups) == 1 and plan.groups[0].rows is None:
        return _attend_group(q, kv, plan.groups[0], scale)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for chunk in plan.chunks:
        out[chunk.rows] = _attend_chunk(q[chunk.rows], kv, chunk, scale)
    for group in plan.groups:
        out[group.rows] = _attend_group(q[group.rows], kv, group, scale)
    return out


@cache
def _warn_of_variants() -> None:
    """Once per process."""
    _log.warning("attention with windows, sinks or soft caps runs as its slow reference on CPUs")


def _attend_chunk(q: Tensor, kv: Tensor, chunk: _Chunk, scale: float) -> Tensor:
    num_kv_heads = kv.shape[2]
    context = _gather(kv, chunk.blocks).flatten(2, 3)[:, :, : chunk.context_len]
    queries = _by_key_head(q, num_kv_heads).permute(1, 2, 0, 3)
    # Key heads stand in the batch dimension and repeat over their group by a stride of 0: nothing
    # is copied.
    keys, values = context.unsqueeze(2).expand(-1, -1, queries.shape[1], -1, -1)
    attended = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=chunk.mask, is_causal=chunk.mask is None, scale=scale
    )
    return attended.permute(2, 0, 1, 3).flatten(1, 2)


def _attend_group(q: Tensor, kv: Tensor, group: _Group, scale: float) -> Tensor:
    num_sequences, num_kv_heads = q.shape[0], kv.shape[2]
    num_blocks = group.blocks.shape[0] // num_sequences
    gathered = _gather(kv, group.blocks)
    context = gathered.view(2, num_kv_heads, num_sequences, num_blocks * kv.shape[3], kv.shape[4])
    if group.unused is not None:
        # A weight of 0 does not silence a NaN, so values are cleared too.
        context[:, :, group.unused[0], group.unused[1]] = 0
    keys, values = context[:, :, :, : group.context_len]
    # The query heads of a key head become the rows of one matrix: [num_kv_heads, B, group,
    # head_dim].
    queries = _by_key_head(q, num_kv_heads).transpose(0, 1)
    attended = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=group.mask, scale=scale
    )
    return attended.transpose(0, 1).flatten(1, 2)


def _by_key_head(q: Tensor, num_kv_heads: int) -> Tensor:
    """Query heads under the key head that they read: [T, num_kv_heads, group, head_dim]."""
    return q.view(q.shape[0], num_kv_heads, q.shape[1] // num_kv_heads, q.shape[2])


def _gather(kv: Tensor, blocks: Tensor) -> Tensor:
    """Copies blocks to [2, num_kv_heads, num_blocks, block_size, head_dim]."""
    return kv.permute(1, 2, 0, 3, 4).index_select(2, blocks)


def _plan(batch: AttentionBatch, block_size: int, dtype: torch.dtype) -> _Plan:
    chunks: list[_Chunk] = []
    decoding: dict[int, list[tuple[int, int]]] = defaultdict(list)  # size class: (sequence, row)
    start = 0
    for index, query_len in enumerate(batch.query_lens):
        num_blocks = -(-batch.host_context_lens[index] // block_size)
        if query_len == 1:
            # Powers of two, so that padding to the longest at most doubles the work.
            decoding[num_blocks.bit_length()].append((index, start))
        elif query_len:
            rows = slice(start, start + query_len)
            chunks.append(_plan_chunk(batch, index, rows, num_blocks, dtype))
        start += query_len
    groups = tuple(
        _plan_group(batch, members, block_size, dtype, is_all=len(members) == start)
        for members in decoding.values()
    )
    return _Plan(tuple(chunks), groups)


def _plan_chunk(
    batch: AttentionBatch, index: int, rows: slice, num_blocks: int, dtype: torch.dtype
) -> _Chunk:
    context_len = batch.host_context_lens[index]
    query_len = rows.stop - rows.start
    mask = None
    if query_len < context_len:
        mask = torch.full((query_len, context_len), float("-inf"), dtype=dtype)
        mask.triu_(context_len - query_len + 1)
    return _Chunk(rows, batch.block_tables[index, :num_blocks], context_len, mask)


def _plan_group(
    batch: AttentionBatch,
    members: list[tuple[int, int]],
    block_size: int,
    dtype: torch.dtype,
    *,
    is_all: bool,
) -> _Group:
    sequences = [index for index, _ in members]
    lens = torch.tensor([batch.host_context_lens[index] for index in sequences])
    longest = int(lens.max())
    num_blocks = -(-longest // block_size)
    tables = batch.block_tables[sequences, :num_blocks]
    rows = None if is_all else torch.tensor([row for _, row in members])
    if bool((lens == longest).all()):
        return _Group(rows, tables.flatten(), longest, None, None)
    is_unused = torch.arange(longest) >= lens[:, None]
    tables[is_unused[:, ::block_size]] = 0  # any block will do: its slots are cleared
    mask = torch.zeros(is_unused.shape, dtype=dtype).masked_fill_(is_unused, float("-inf"))
    sequence, position = is_unused.nonzero(as_tuple=True)
    return _Group(rows, tables.flatten(), longest, mask[None, :, None], (sequence, position))
