"""Query and key norm, rotation and cache write in Triton: one launch, a few heads per program.

A head is two halves of its turning part, which need each other lane by lane, and the rest.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch
from kernels.qk_norm_rope_write import QkNorm, Rotary, Slots


@triton.jit
def _store(values, q_at, kv_at, is_query, is_cached):
    # Rounded as the activations are before a cache of another type takes it.
    values = values.to(q_at.dtype.element_ty)
    tl.store(q_at, values, is_query)
    tl.store(kv_at, values.to(kv_at.dtype.element_ty), is_cached)


@triton.jit
def _cached_at(slot, head, pair_stride, head_stride, NUM_KV_HEADS: tl.constexpr):
    """Where heads behind the queries' go: keys are pair 0 of the cache, values pair 1."""
    is_value = (head >= NUM_KV_HEADS).to(tl.int32)
    return slot + is_value * pair_stride + (head - is_value * NUM_KV_HEADS) * head_stride


@triton.jit
def _weighted(x, scale, weight_at, is_inside, is_rotated):
    weight = tl.load(weight_at, is_inside & is_rotated, other=0.0).to(tl.float32)
    return tl.where(is_rotated, x * scale * weight, x)


@triton.jit
def qk_norm_rope_write_kernel(
    qkv_ptr,
    weight_ptr,
    cos_ptr,
    sin_ptr,
    kv_ptr,
    blocks_ptr,
    offsets_ptr,
    q_ptr,
    qkv_stride,
    weight_stride,
    angle_stride,
    kv_block_stride,
    kv_pair_stride,
    kv_head_stride,
    kv_slot_stride,
    eps,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY_DIM: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
):
    HALF: tl.constexpr = ROTARY_DIM // 2
    NUM_ROTATED: tl.constexpr = NUM_HEADS + NUM_KV_HEADS
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK)[:, None]
    pairs = tl.arange(0, HALF_BLOCK)[None, :]
    is_inside = (heads < NUM_ROTATED + NUM_KV_HEADS) & (pairs < HALF)
    is_rotated = heads < NUM_ROTATED

    at = qkv_ptr + token * qkv_stride + heads * HEAD_DIM
    low = tl.load(at + pairs, is_inside, other=0.0).to(tl.float32)
    high = tl.load(at + HALF + pairs, is_inside, other=0.0).to(tl.float32)
    # Loaded while the heads are on their way.
    block = tl.load(blocks_ptr + token).to(tl.int64)
    offset = tl.load(offsets_ptr + token).to(tl.int64)
    # One load for each head, from L1: a single row would go around through shared memory.
    angles = token * angle_stride + tl.broadcast_to(pairs, (HEADS_BLOCK, HALF_BLOCK))
    cos = tl.load(cos_ptr + angles, is_inside, other=0.0)
    sin = tl.load(sin_ptr + angles, is_inside, other=0.0)

    q_at = q_ptr + (token * NUM_HEADS + heads) * HEAD_DIM
    slot = kv_ptr + block * kv_block_stride + offset * kv_slot_stride
    kv_at = _cached_at(slot, heads - NUM_HEADS, kv_pair_stride, kv_head_stride, NUM_KV_HEADS)
    is_query = is_inside & (heads < NUM_HEADS)
    is_cached = is_inside & (heads >= NUM_HEADS)

    if REST_BLOCK > 0:
        rest_columns = ROTARY_DIM + tl.arange(0, REST_BLOCK)[None, :]
        is_rest = (heads < NUM_ROTATED + NUM_KV_HEADS) & (rest_columns < HEAD_DIM)
        rest = tl.load(at + rest_columns, is_rest, other=0.0).to(tl.float32)
    if HAS_NORM:
        squares = tl.sum(low * low + high * high, axis=1)
        if REST_BLOCK > 0:
            squares += tl.sum(rest * rest, axis=1)
        scale = tl.rsqrt(squares / HEAD_DIM + eps)[:, None]
        weight_at = weight_ptr + heads * weight_stride
        low = _weighted(low, scale, weight_at + pairs, is_inside, is_rotated)
        high = _weighted(high, scale, weight_at + HALF + pairs, is_inside, is_rotated)
        if REST_BLOCK > 0:
            rest = _weighted(rest, scale, weight_at + rest_columns, is_rest, is_rotated)

    new_low = tl.where(is_rotated, low * cos - high * sin, low)
    new_high = tl.where(is_rotated, high * cos + low * sin, high)
    _store(new_low, q_at + pairs, kv_at + pairs, is_query, is_cached)
    _store(new_high, q_at + HALF + pairs, kv_at + HALF + pairs, is_query, is_cached)
    if REST_BLOCK > 0:
        is_query_rest, is_cached_rest = (
            is_rest & (heads < NUM_HEADS),
            is_rest & (heads >= NUM_HEADS),
        )
        _store(rest, q_at + rest_columns, kv_at + rest_columns, is_query_rest, is_cached_rest)


# Elements of a half of the turning part per program, 8 a thread: a 16-byte load of a half type. Few
# tokens want many programs, many want bigger ones.
_ELEMENTS_FEW, _ELEMENTS_MANY = 512, 1024
_MANY_TOKENS = 256


def run(qkv: Tensor, norm: QkNorm | None, rotary: Rotary, kv: Tensor, slots: Slots) -> Tensor:
    """See the contract."""
    num_tokens = qkv.shape[0]
    num_kv_heads, head_dim = kv.shape[2], kv.shape[4]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    q = torch.empty(num_tokens, num_heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    if not num_tokens:
        return q
    dims = (num_heads, num_kv_heads, head_dim, rotary.cos.shape[1])
    constants, num_warps = _specialised(num_tokens, dims, has_norm=norm is not None)
    weight, eps = (None, 0.0) if norm is None else (norm.weight, norm.eps)
    grid = (num_tokens, triton.cdiv(num_heads + 2 * num_kv_heads, constants["HEADS_BLOCK"]))
    qk_norm_rope_write_kernel[grid](
        qkv,
        weight,
        rotary.cos,
        rotary.sin,
        kv,
        slots.blocks,
        slots.offsets,
        q,
        qkv.stride(0),
        0 if weight is None else weight.stride(0),
        rotary.cos.stride(0),
        *kv.stride()[:4],
        eps,
        **constants,
        num_warps=num_warps,
    )
    return q


def _specialised(
    num_tokens: int, dims: tuple[int, int, int, int], *, has_norm: bool
) -> tuple[dict[str, Any], int]:
    """Constants of the kernel and its warps, for heads of queries and of keys and both dims."""
    num_heads, num_kv_heads, head_dim, rotary_dim = dims
    half_block = triton.next_power_of_2(rotary_dim // 2)
    elements = _ELEMENTS_FEW if num_tokens < _MANY_TOKENS else _ELEMENTS_MANY
    num_all = triton.next_power_of_2(num_heads + 2 * num_kv_heads)
    heads_block = min(max(elements // half_block, 1), num_all)
    rest = head_dim - rotary_dim
    constants = {
        "NUM_HEADS": num_heads,
        "NUM_KV_HEADS": num_kv_heads,
        "HEAD_DIM": head_dim,
        "ROTARY_DIM": rotary_dim,
        "HAS_NORM": has_norm,
        "HEADS_BLOCK": heads_block,
        "HALF_BLOCK": half_block,
        "REST_BLOCK": triton.next_power_of_2(rest) if rest else 0,
    }
    return constants, max(heads_block * half_block // 256, 1)


def _launch(
    name: str, dtype: str, num_tokens: int, dims: tuple[int, int, int, int], *, has_norm: bool
) -> Launch:
    constants, num_warps = _specialised(num_tokens, dims, has_norm=has_norm)
    halves = ("qkv_ptr", "kv_ptr", "q_ptr", *(("weight_ptr",) if has_norm else ()))
    strides = ("qkv", "angle", "kv_block", "kv_pair", "kv_head", "kv_slot")
    return Launch(
        name,
        qk_norm_rope_write_kernel,
        {
            **dict.fromkeys(halves, f"*{dtype}:16"),
            **dict.fromkeys(("cos_ptr", "sin_ptr"), "*fp32:16"),
            **dict.fromkeys(("blocks_ptr", "offsets_ptr"), "*i64:16"),
            **{f"{each}_stride": "i32:16" for each in strides},
            "weight_stride": "i32:16",
            "eps": "fp32",
        },
        {**constants, **({} if has_norm else {"weight_ptr": None})},
        num_warps=num_warps,
        expects=(".v4.b32",),
        # A head lies in one warp, so warps never wait for each other.
        forbids=("bar.sync",),
    )


# Heads of queries, of keys, their dimensions, turning dimensions.
_QWEN3_8B = (32, 8, 128, 128)
_LLAMA_1B = (32, 8, 64, 64)
_PHI_4_MINI = (24, 8, 128, 96)

LAUNCHES = (
    _launch("Qwen3-8B decode", "bf16", 1, _QWEN3_8B, has_norm=True),
    _launch("Qwen3-8B prefill", "bf16", 8192, _QWEN3_8B, has_norm=True),
    _launch("Llama-3.1-8B decode", "bf16", 1, _QWEN3_8B, has_norm=False),
    _launch("Llama-3.1-8B prefill", "bf16", 8192, _QWEN3_8B, has_norm=False),
    _launch("Llama-3.2-1B decode", "fp16", 1, _LLAMA_1B, has_norm=False),
    _launch("three quarters of a head turn", "bf16", 1, _PHI_4_MINI, has_norm=False),
)
