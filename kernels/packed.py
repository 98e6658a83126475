"""The form of blocks outside an arena: for hand-off and kvstore.

A packed block is one run of bytes: its values, then for forms of one byte a value a scale for each
tile, a tile being the keys or the values of one head in one layer. Both parts and the whole are
filled up with zeros to a multiple of 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod

import torch
from torch import Tensor

_ALIGNMENT = 16
"""Bytes that a GPU loads at once."""

TINY = 2.0**-100
"""A tile whose largest magnitude is less than this packs as zeros: the inverse of its scale would
not fit into float32."""


class Form(Enum):
    """How values are stored."""

    PLAIN = "plain"
    """As the arena has them."""
    INT8 = "int8"
    """Multiples of the tile's scale, from -127 to 127, rounded half to even."""
    FP8 = "fp8"
    """float8 e4m3 (finite only) of the value over the tile's scale."""


LARGEST = {Form.INT8: 127.0, Form.FP8: 448.0}
"""The stored number that a tile's largest magnitude becomes; the scale is their quotient."""

_STORED = {Form.INT8: torch.int8, Form.FP8: torch.float8_e4m3fn}


@dataclass(frozen=True, slots=True)
class Parts:
    """Packed blocks as tensors that share their memory."""

    values: Tensor
    """[n, layers, 2, heads, block_size, head_dim] of the stored type."""
    scales: Tensor | None
    """[n, layers, 2, heads] float32; None where the form has none."""


def block_bytes(arena: Tensor, form: Form) -> int:
    """Bytes of a packed block of `arena [num_blocks, layers, 2, heads, block_size, head_dim]`."""
    return _scales_at(arena, form) + _aligned(4 * prod(arena.shape[1:4])) * (form in LARGEST)


def parts(packed: Tensor, arena: Tensor, form: Form) -> Parts:
    """Views into `packed [n, block_bytes] uint8`; ValueError if it is not of that form."""
    size = block_bytes(arena, form)
    if packed.dtype != torch.uint8 or packed.shape[1:] != (size,) or packed.stride(1) != 1:
        raise ValueError(
            f"packed blocks are rows of {size} bytes, not {packed.dtype} {list(packed.shape)}"
        )
    stored = _STORED.get(form, arena.dtype)
    num_bytes = prod(arena.shape[1:]) * stored.itemsize
    values = packed[:, :num_bytes].view(stored).view(-1, *arena.shape[1:])
    if form not in LARGEST:
        return Parts(values, None)
    at, num_tiles = _scales_at(arena, form), prod(arena.shape[1:4])
    scales = packed[:, at : at + 4 * num_tiles].view(torch.float32)
    return Parts(values, scales.view(-1, *arena.shape[1:4]))


def clear_gaps(packed: Tensor, arena: Tensor, form: Form) -> None:
    """Zeroes the bytes behind the values and behind the scales, if there are any."""
    num_bytes = prod(arena.shape[1:]) * _STORED.get(form, arena.dtype).itemsize
    scales_at = _scales_at(arena, form)
    if num_bytes < scales_at:
        packed[:, num_bytes:scales_at].zero_()
    if form in LARGEST and scales_at + 4 * prod(arena.shape[1:4]) < packed.shape[1]:
        packed[:, scales_at + 4 * prod(arena.shape[1:4]) :].zero_()


def require_whole_tiles(arena: Tensor) -> None:
    """ValueError unless each head's `[block_size, head_dim]` is one run in memory."""
    block_size, head_dim = arena.shape[4:]
    if block_size * head_dim > 1 and arena.stride()[4:] != (head_dim, 1):
        raise ValueError(f"a tile of the arena is not contiguous: strides {arena.stride()}")


def _scales_at(arena: Tensor, form: Form) -> int:
    return _aligned(prod(arena.shape[1:]) * _STORED.get(form, arena.dtype).itemsize)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
