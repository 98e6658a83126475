"""Query and key norm, rotation and cache write on CPUs, native: one pass over each token."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.native.decoder import rotary_of
from kernels.native.library import Heads, arena_of, find, is_float_arena, num_threads
from kernels.qk_norm_rope_write import QkNorm, Rotary, Slots, cpu


def run(qkv: Tensor, norm: QkNorm | None, rotary: Rotary, kv: Tensor, slots: Slots) -> Tensor:
    """See the contract. Other types than float32 are torch's."""
    if qkv.dtype != torch.float32 or not is_float_arena(kv) or qkv.stride(1) != 1:
        return cpu.run(qkv, norm, rotary, kv, slots)
    num_kv_heads, head_dim = kv.shape[2], kv.shape[4]
    num_heads = qkv.shape[1] // head_dim - 2 * num_kv_heads
    weight = None if norm is None else norm.weight.float().contiguous()
    rotary = Rotary(rotary.cos.contiguous(), rotary.sin.contiguous())
    blocks, offsets = slots.blocks.contiguous(), slots.offsets.contiguous()
    q = torch.empty(qkv.shape[0], num_heads, head_dim)
    find().baton_qk_norm_rope_write(
        *(qkv.data_ptr(), qkv.stride(0)),
        *(None if weight is None else weight.data_ptr(), 0.0 if norm is None else norm.eps),
        *(rotary_of(rotary), Heads(num_heads, num_kv_heads, head_dim), arena_of(kv)),
        *(blocks.data_ptr(), offsets.data_ptr(), qkv.shape[0], q.data_ptr(), num_threads()),
    )
    return q
