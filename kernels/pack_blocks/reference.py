"""Packing blocks: the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.packed import LARGEST, TINY, Form, parts


def run(arena: Tensor, block_ids: Tensor, filled: Tensor, form: Form, out: Tensor) -> None:
    """See the contract."""
    packed = parts(out.zero_(), arena, form)
    is_empty = torch.arange(arena.shape[4], device=arena.device) >= filled[:, None]
    tiles = arena[block_ids].masked_fill(is_empty[:, None, None, None, :, None], 0)
    if packed.scales is None:
        packed.values.copy_(tiles)
        return
    peak = tiles.float().abs().amax((-2, -1))
    is_kept = (peak >= TINY) & peak.isfinite()
    # A tensor, since torch divides by and into plain numbers by way of their rounded inverse.
    largest = torch.full_like(peak, LARGEST[form])
    odd = torch.zeros_like(peak).masked_fill_(~(peak < TINY), torch.nan)
    packed.scales.copy_(torch.where(is_kept, peak / largest, odd))
    scaled = tiles.float() * (largest / peak)[..., None, None]
    scaled = scaled.masked_fill(~is_kept[..., None, None], 0)
    packed.values.copy_(scaled.round() if form is Form.INT8 else scaled)
