"""Packing blocks on a CPU: one block at a time, so that what lies between stays in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.packed import LARGEST, TINY, Form, clear_gaps, parts, require_whole_tiles


def run(arena: Tensor, block_ids: Tensor, filled: Tensor, form: Form, out: Tensor) -> None:
    """See the contract."""
    require_whole_tiles(arena)
    packed = parts(out, arena, form)
    clear_gaps(out, arena, form)
    has_scales = packed.scales is not None
    work = torch.empty((2, *arena.shape[1:]) if has_scales else 0, dtype=torch.float32)
    for row, (block, count) in enumerate(zip(block_ids.tolist(), filled.tolist(), strict=True)):
        values = packed.values[row]
        if packed.scales is None:
            values[..., :count, :].copy_(arena[block, ..., :count, :])
            values[..., count:, :].zero_()
            continue
        work[0, ..., :count, :].copy_(arena[block, ..., :count, :])
        work[0, ..., count:, :].zero_()
        values.copy_(_scaled(work, form, packed.scales[row]))


def _scaled(work: Tensor, form: Form, scales: Tensor) -> Tensor:
    """The numbers to store, in the place of the tiles, the first half; writes the scales."""
    tiles = work[0]
    peak = torch.abs(tiles, out=work[1]).flatten(-2).amax(-1)
    # A tensor, since torch divides by and into plain numbers by way of their rounded inverse.
    largest = torch.full_like(peak, LARGEST[form])
    torch.div(peak, largest, out=scales)
    tiles.mul_((largest / peak)[..., None, None])
    is_odd = ~((peak >= TINY) & peak.isfinite())
    if is_odd.any():
        scales.masked_fill_(is_odd, torch.nan).masked_fill_(peak < TINY, 0)
        tiles.masked_fill_(is_odd[..., None, None], 0)
    return tiles.round_() if form is Form.INT8 else tiles
