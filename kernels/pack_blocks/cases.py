"""Cases of pack_blocks: bytes must be equal. Slots that don't count hold NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.case import Arguments, Case, Tolerance, normal
from kernels.packed import Form, block_bytes


@dataclass(frozen=True)
class Shape:
    """An arena, the part of it that is packed, and the blocks."""

    block_ids: tuple[int, ...] = (5, 0, 3)
    filled: tuple[int, ...] = ()
    """Slots that count in each block; empty for all."""
    num_blocks: int = 8
    layers: int = 3
    heads: int = 4
    block_size: int = 4
    head_dim: int = 16
    dtype: torch.dtype = torch.float32
    part: tuple[slice, slice] = (slice(None), slice(None))
    """Layers and heads of the view."""
    block_stride: int = 0
    """Values from one block to the next, where not contiguous."""
    change: Callable[[Tensor], Any] = lambda arena: None
    """Plants hostile values in the view."""


def make_arena(device: str, shape: Shape) -> Tensor:
    """The view of an arena of standard normal numbers."""
    size = (shape.num_blocks, shape.layers, 2, shape.heads, shape.block_size, shape.head_dim)
    arena = normal(size, seed=3, dtype=shape.dtype).to(device)
    if shape.block_stride:
        arena = _spread(arena, shape.block_stride)
    view = arena[:, shape.part[0], :, shape.part[1]]
    shape.change(view)
    return view


def _spread(arena: Tensor, block_stride: int) -> Tensor:
    """The same blocks far apart, in memory that is otherwise never touched."""
    num_values = (arena.shape[0] - 1) * block_stride + arena[0].numel()
    size = num_values * arena.itemsize
    storage = torch.UntypedStorage(size, device=arena.device)  # type: ignore[no-untyped-call]
    wide = torch.empty(0, dtype=arena.dtype, device=arena.device).set_(storage)
    wide = wide.as_strided(arena.shape, (block_stride, *arena.stride()[1:]))
    return wide.copy_(arena)


def make(device: str, shape: Shape, form: Form) -> Arguments:
    """Arguments of the op."""
    arena = make_arena(device, shape)
    filled = shape.filled or (shape.block_size,) * len(shape.block_ids)
    for block, count in zip(shape.block_ids, filled, strict=True):
        arena[block, :, :, :, count:] = float("nan")
    out = torch.full((len(filled), block_bytes(arena, form)), 0xFF, dtype=torch.uint8)
    return (
        arena,
        torch.tensor(shape.block_ids, dtype=torch.int64, device=device),
        torch.tensor(filled, dtype=torch.int32, device=device),
        form,
        out.to(device),
    )


def _hostile(arena: Tensor) -> None:
    arena[0, 0, 0, 0, 1, 2] = float("nan")
    arena[0, 0, 0, 1, 0, 3] = float("inf")
    arena[0, 0, 1, 0, 3, 0] = -float("inf")
    arena[0, 1, 0, 0] = 0
    arena[0, 1, 0, 1] *= 2.0**-110  # under TINY
    arena[3, 1, 1, 0, 0, 0] = 1e30  # an outlier makes all else of its tile small
    arena[3, 2, 1, 1] *= 2.0**-60
    # Halves, which round to even, beside a peak that makes the scale 1.
    arena[3, 0, 0, 0] = torch.arange(64.0).view(4, 16) + 0.5
    arena[3, 0, 0, 0, 0, 0] = 127.0
    arena[3, 0, 1, 0] = torch.arange(-448.0, 448.0, 14.0).view(4, 16)


PART = (slice(1, 2), slice(1, 3))
SHAPES = {
    "three blocks": Shape(),
    "a slice of heads and layers": Shape(part=PART),
    "a half-filled last block": Shape(filled=(4, 4, 1)),
    "an empty block": Shape(filled=(0, 4, 3)),
    "no blocks": Shape(block_ids=()),
    "the same block twice": Shape(block_ids=(2, 7, 2), num_blocks=8),
    "odd sizes": Shape(heads=3, block_size=5, head_dim=7, filled=(5, 2, 5)),
    "one value a tile": Shape(heads=1, block_size=1, head_dim=1),
    "bfloat16": Shape(dtype=torch.bfloat16, filled=(4, 4, 3)),
    "float16, odd sizes": Shape(dtype=torch.float16, heads=3, block_size=3, head_dim=5),
    "blocks of 64": Shape(block_size=64, head_dim=128, heads=2, layers=2, dtype=torch.float16),
    "offsets beyond 32 bits": Shape(
        block_ids=(2, 1), num_blocks=3, block_stride=2**30, dtype=torch.float16
    ),
    "hostile values": Shape(change=_hostile),
}
"""Also those of unpack_blocks, where no block comes twice."""

EXACT = Tolerance(0.0, 0.0)


def _case(name: str, form: Form) -> Case:
    shape = SHAPES[name]
    if form is Form.PLAIN and name == "hostile values":
        shape = replace(shape, dtype=torch.bfloat16)
    return Case(
        f"{name}, {form.value}",
        partial(make, shape=shape, form=form),
        EXACT,
        observe=lambda arguments, _: (arguments[-1],),
    )


CASES = tuple(_case(name, form) for name in SHAPES for form in Form)
