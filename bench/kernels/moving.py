"""Jobs of packing and unpacking blocks for hand-off and kvstore."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from bench.kernels.job import Job, Planned, Setting, size_of
from kernels.packed import LARGEST, Form, block_bytes, parts


def plan(setting: Setting) -> Iterator[Planned]:
    """A whole sequence, all layers; plain also the half of the heads that another worker takes."""
    tokens = setting.sizes.pack_tokens
    for form in Form:
        shape = f"{tokens} tokens, {form.value}"
        yield Planned("pack_blocks", shape, partial(_pack, setting, form, False))
        if form is Form.PLAIN:
            half = partial(_pack, setting, form, True)
            yield Planned("pack_blocks", f"{shape}, half of the heads", half)
        yield Planned("unpack_blocks", shape, partial(_unpack, setting, form))


def _arena(setting: Setting) -> tuple[Tensor, Tensor]:
    sizes = setting.sizes
    num_blocks = sizes.pack_tokens // sizes.block_size
    shape = (num_blocks, sizes.num_layers, 2, sizes.num_kv_heads, sizes.block_size, sizes.head_dim)
    return setting.numbers(*shape), torch.randperm(num_blocks, device=setting.device)


def _pack(setting: Setting, form: Form, is_half: bool) -> Job:
    arena, ids = _arena(setting)
    view = arena[:, :, :, : arena.shape[3] // 2] if is_half else arena
    filled = torch.full((len(ids),), arena.shape[4], dtype=torch.int32, device=setting.device)
    size = (len(ids), block_bytes(view, form))
    out, other = (torch.empty(size, dtype=torch.uint8, device=setting.device) for _ in range(2))

    def composed() -> None:
        packed = parts(other, view, form)
        if packed.scales is None:
            packed.values.copy_(view[ids])
            return
        tiles = view[ids]
        scales = tiles.abs().amax((-2, -1)).float() / LARGEST[form]
        packed.scales.copy_(scales)
        scaled = tiles / scales[..., None, None]
        packed.values.copy_(scaled.round() if form is Form.INT8 else scaled)

    return Job(
        (view, ids, filled, form, out),
        size_of(view, out),
        composed=composed,
        result=lambda _: None,
    )


def _unpack(setting: Setting, form: Form) -> Job:
    arena, ids = _arena(setting)
    size = (len(ids), block_bytes(arena, form))
    packed = torch.zeros(size, dtype=torch.uint8, device=setting.device)

    def composed() -> None:
        found = parts(packed, arena, form)
        values = found.values
        if found.scales is not None:
            values = (values.to(arena.dtype) * found.scales[..., None, None]).to(arena.dtype)
        arena.index_copy_(0, ids, values)

    return Job(
        (packed, ids, form, arena),
        size_of(packed, arena),
        composed=composed,
        result=lambda _: None,
    )
