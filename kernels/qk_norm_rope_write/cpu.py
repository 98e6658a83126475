"""Query and key norm, rotation and cache write on CPUs: the definition in fewer passes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.qk_norm_rope_write import QkNorm, Rotary, Slots


def run(qkv: Tensor, norm: QkNorm | None, rotary: Rotary, kv: Tensor, slots: Slots) -> Tensor:
    """See the contract."""
    num_kv_heads, head_dim = kv.shape[2], kv.shape[4]
    num_all = qkv.shape[1] // head_dim
    num_rotated = num_all - num_kv_heads
    heads = qkv.view(qkv.shape[0], num_all, head_dim)
    rotated = heads[:, :num_rotated].float()
    if norm is not None:
        rotated = F.rms_norm(rotated, (head_dim,), None, norm.eps) * norm.weight
    rotary_dim = rotary.cos.shape[1]
    half = rotary_dim // 2
    low, high = rotated[..., :half], rotated[..., half:rotary_dim]
    cos, sin = rotary.cos[:, None, :half], rotary.sin[:, None, :half]
    out = torch.empty(rotated.shape, dtype=qkv.dtype)
    torch.sub(low * cos, high * sin, out=out[..., :half])
    torch.add(high * cos, low * sin, out=out[..., half:rotary_dim])
    if rotary_dim < head_dim:
        out[..., rotary_dim:] = rotated[..., rotary_dim:]
    stored = torch.stack((out[:, -num_kv_heads:], heads[:, num_rotated:]), dim=1)
    kv[slots.blocks, :, :, slots.offsets] = stored.to(kv.dtype)
    return out[:, :-num_kv_heads]
