"""Cases of unpack_blocks: values must be equal, and nothing but the named blocks written."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.case import Arguments, Case
from kernels.pack_blocks import cases as packing
from kernels.pack_blocks import reference as pack
from kernels.packed import Form


def make(device: str, shape: packing.Shape, form: Form) -> Arguments:
    """Blocks packed from one arena, to be unpacked into other places of another one."""
    arguments = packing.make("cpu", shape, form)
    pack.run(*arguments)
    arena = packing.make_arena(device, shape).fill_(7.0)
    places = torch.arange(arena.shape[0] - 1, -1, -1)[: len(shape.block_ids)]
    return arguments[-1].to(device), places.to(device), form, arena


def _observe(arguments: Arguments, _: Any) -> tuple[Tensor, ...]:
    arena = arguments[-1].cpu()
    return arena.nan_to_num(), arena.isnan().float()


CASES = tuple(
    Case(f"{name}, {form.value}", partial(make, shape=shape, form=form), packing.EXACT, _observe)
    for name, shape in packing.SHAPES.items()
    if len(set(shape.block_ids)) == len(shape.block_ids)
    for form in Form
)
