"""Attention over compressed keys and values on a GPU: contexts split among programs, then merged.

A tile of tokens is read once for all heads of a program and serves as keys and as values. How a
context is split is worked out on the device from its length: a CUDA graph may hold the launches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch, num_processors
from kernels.paged_attention import AttentionBatch

_TOKENS = 32
"""Tokens of a tile: two of 512 + 64 bfloat16 numbers fit into shared memory beside the queries."""
_MOST_SPLITS = 32
_LOG2_E = 1.4426950408889634


@triton.jit
def attend(
    q_ptr,
    kv_ptr,
    tables_ptr,
    query_start_ptr,
    context_lens_ptr,
    parts_ptr,
    peaks_ptr,
    sums_ptr,
    scale,
    num_sequences,
    num_heads,
    tables_stride,
    q_stride_token,
    q_stride_head,
    kv_stride_block,
    kv_stride_slot,
    LATENT: tl.constexpr,
    ROTATED: tl.constexpr,
    ROTATED_WIDTH: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
    SEQUENCES: tl.constexpr,
):
    token, split = tl.program_id(2), tl.program_id(1)
    each = tl.arange(0, SEQUENCES)
    ends = tl.load(query_start_ptr + 1 + each, mask=each < num_sequences, other=2147483647)
    sequence = tl.sum((ends <= token).to(tl.int32), 0)
    num_later = tl.load(query_start_ptr + sequence + 1) - 1 - token
    num_seen = tl.load(context_lens_ptr + sequence) - num_later
    share = tl.cdiv(tl.cdiv(num_seen, SPLITS), TOKENS) * TOKENS
    start = split * share
    stop = tl.minimum(start + share, num_seen)

    head = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    is_head = head < num_heads
    latent = tl.arange(0, LATENT)
    rotated = tl.arange(0, ROTATED_WIDTH)
    is_rotated = rotated < ROTATED
    q_heads = q_ptr + token.to(tl.int64) * q_stride_token + head[:, None] * q_stride_head
    q_latent = tl.load(q_heads + latent[None, :], mask=is_head[:, None], other=0)
    is_inside = is_head[:, None] & is_rotated[None, :]
    q_rotated = tl.load(q_heads + LATENT + rotated[None, :], mask=is_inside, other=0)

    peak = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    values = tl.zeros((HEADS, LATENT), tl.float32)
    for at in range(start, stop, TOKENS):
        position = at + tl.arange(0, TOKENS)
        is_seen = position < stop
        to_block = tables_ptr + sequence.to(tl.int64) * tables_stride + position // BLOCK_SIZE
        block = tl.load(to_block, mask=is_seen, other=0).to(tl.int64)
        vectors = kv_ptr + block * kv_stride_block + position % BLOCK_SIZE * kv_stride_slot
        tile = tl.load(vectors[:, None] + latent[None, :], mask=is_seen[:, None], other=0)
        has_turned = is_seen[:, None] & is_rotated[None, :]
        turned = tl.load(vectors[:, None] + LATENT + rotated[None, :], mask=has_turned, other=0)
        scores = tl.dot(q_latent, tl.trans(tile), input_precision="ieee")
        scores = tl.dot(q_rotated, tl.trans(turned), scores, input_precision="ieee") * scale
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shrink = tl.exp2(peak - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * shrink + tl.sum(weights, 1)
        values = values * shrink[:, None]
        values = tl.dot(weights.to(tile.dtype), tile, values, input_precision="ieee")
        peak = higher
    part = (token.to(tl.int64) * num_heads + head) * SPLITS + split
    tl.store(peaks_ptr + part, peak, mask=is_head)
    tl.store(sums_ptr + part, total, mask=is_head)
    tl.store(parts_ptr + part[:, None] * LATENT + latent[None, :], values, mask=is_head[:, None])


@triton.jit
def merge(parts_ptr, peaks_ptr, sums_ptr, out_ptr, LATENT: tl.constexpr, SPLITS: tl.constexpr):
    """One head of one token."""
    row = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    latent = tl.arange(0, LATENT)
    peaks = tl.load(peaks_ptr + row * SPLITS + split)
    factors = tl.exp2(peaks - tl.max(peaks, 0))  # 0 for a split without tokens
    whole = tl.sum(tl.load(sums_ptr + row * SPLITS + split) * factors, 0)
    at = (row * SPLITS + split)[:, None] * LATENT + latent[None, :]
    values = tl.sum(tl.load(parts_ptr + at) * factors[:, None], 0) / whole
    tl.store(out_ptr + row * LATENT + latent, values.to(out_ptr.dtype.element_ty))


def run(q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float, latent_dim: int) -> Tensor:
    """See the contract."""
    num_tokens, num_heads, size = q.shape
    out = torch.empty((num_tokens, num_heads, latent_dim), dtype=q.dtype, device=q.device)
    if not num_tokens:
        return out
    if q.stride(2) != 1 or kv.stride(2) != 1 or latent_dim & (latent_dim - 1):
        raise ValueError("vectors must be contiguous, and the latent part a power of two")
    heads = heads_per_program(num_heads)
    blocks_of_heads = triton.cdiv(num_heads, heads)
    splits = num_splits(q.device, num_tokens * blocks_of_heads, max(batch.host_context_lens))
    parts = torch.empty((num_tokens, num_heads, splits, latent_dim + 2), device=q.device)
    room = torch.split(parts.view(-1), [out.numel() * splits, *[out[..., 0].numel() * splits] * 2])
    attend[(blocks_of_heads, splits, num_tokens)](
        q,
        kv,
        batch.block_tables,
        batch.query_start,
        batch.context_lens,
        *room,
        scale * _LOG2_E,
        len(batch.query_lens),
        num_heads,
        batch.block_tables.stride(0),
        *q.stride()[:2],
        *kv.stride()[:2],
        **_constants(latent_dim, size - latent_dim, kv.shape[1], heads, splits),
        SEQUENCES=triton.next_power_of_2(len(batch.query_lens)),
        num_warps=8 if heads == 64 else 4,
        num_stages=2,
    )
    merge[(num_tokens * num_heads,)](*room, out, LATENT=latent_dim, SPLITS=splits)
    return out


def heads_per_program(num_heads: int) -> int:
    """16, or 64 where there are so many: the rows of a Hopper matrix instruction."""
    return 16 if num_heads <= 16 else 64


def num_splits(device: torch.device, num_programs: int, longest: int) -> int:
    """A power of two that gives each processor a program, no split of less than two tiles."""
    wanted = num_processors(device) // num_programs
    useful = longest // (2 * _TOKENS)
    most = max(1, min(wanted, useful, _MOST_SPLITS))
    return 1 << (most.bit_length() - 1)


def _constants(
    latent: int, rotated: int, block_size: int, heads: int, splits: int
) -> dict[str, int]:
    return {
        "LATENT": latent,
        "ROTATED": rotated,
        "ROTATED_WIDTH": max(16, triton.next_power_of_2(rotated)),
        "BLOCK_SIZE": block_size,
        "HEADS": heads,
        "TOKENS": _TOKENS,
        "SPLITS": splits,
    }


_ADDRESSES = {
    **dict.fromkeys(("q_ptr", "kv_ptr"), "*bf16:16"),
    **dict.fromkeys(("tables_ptr", "query_start_ptr", "context_lens_ptr"), "*i32:16"),
    **dict.fromkeys(("parts_ptr", "peaks_ptr", "sums_ptr"), "*fp32:16"),
    "scale": "fp32",
    **dict.fromkeys(("num_sequences", "tables_stride"), "i32"),
    **dict.fromkeys(("num_heads", "q_stride_token", "q_stride_head"), "i32:16"),
    **dict.fromkeys(("kv_stride_block", "kv_stride_slot"), "i32:16"),
}


def _launch(num_heads: int, splits: int) -> Launch:
    heads = heads_per_program(num_heads)
    return Launch(
        f"deepseek-v3, {num_heads} heads, {splits} splits",
        attend,
        _ADDRESSES,
        {**_constants(512, 64, 64, heads, splits), "SEQUENCES": 32},
        num_warps=8 if heads == 64 else 4,
        num_stages=2,
        expects=("wgmma.mma_async",) if heads == 64 else ("mma.sync",),
        forbids=("mma.sync.aligned",) if heads == 64 else (),
    )


LAUNCHES = (
    _launch(128, 1),
    _launch(128, 32),
    _launch(16, 8),
    Launch(
        "merge",
        merge,
        {
            **dict.fromkeys(("parts_ptr", "peaks_ptr", "sums_ptr"), "*fp32:16"),
            "out_ptr": "*bf16:16",
        },
        {"LATENT": 512, "SPLITS": 8},
    ),
)
