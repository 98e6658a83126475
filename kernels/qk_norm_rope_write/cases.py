"""Cases of qk_norm_rope_write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.case import Arguments, Case, Tolerance, normal
from kernels.qk_norm_rope_write import QkNorm, Rotary, Slots

_BLOCK_SIZE = 4
_NUM_LAYERS = 3


@dataclass(frozen=True)
class _Shape:
    num_tokens: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    is_normed: bool = False
    first_position: int = 0
    dtype: torch.dtype = torch.float32
    num_blocks: int = 16
    rotary_dim: int | None = None
    """None: all of a head turns."""
    rotary_scale: float = 1.0
    stride: int = 1
    """Of rows of queries, keys and values: others' rows lie between."""


def _make(device: str, shape: _Shape) -> Arguments:
    num_heads = shape.num_heads + 2 * shape.num_kv_heads
    rows = (shape.num_tokens * shape.stride, num_heads * shape.head_dim)
    qkv = normal(rows, seed=1, dtype=shape.dtype).to(device)[:: shape.stride]
    weight = normal((num_heads - shape.num_kv_heads, shape.head_dim), seed=2, dtype=shape.dtype)
    norm = QkNorm(weight.to(device), 1e-6) if shape.is_normed else None
    arena = normal(
        (shape.num_blocks, _NUM_LAYERS, 2, shape.num_kv_heads, _BLOCK_SIZE, shape.head_dim),
        seed=3,
        dtype=shape.dtype,
    )
    # One layer of a block-major arena: strided. Slots run backwards from the arena's last.
    last = shape.num_blocks * _BLOCK_SIZE - 1
    places = torch.arange(last, last - shape.num_tokens, -1, device=device)
    slots = Slots(places // _BLOCK_SIZE, places % _BLOCK_SIZE)
    return qkv, norm, _rotary(device, shape), arena.to(device)[:, 1], slots


def _rotary(device: str, shape: _Shape) -> Rotary:
    positions = torch.arange(shape.num_tokens, dtype=torch.float32) + shape.first_position
    rotary_dim = shape.rotary_dim or shape.head_dim
    pairs = torch.arange(0, rotary_dim, 2) / rotary_dim
    angles = torch.outer(positions, 10_000.0**-pairs).repeat(1, 2)
    scale = shape.rotary_scale
    return Rotary((angles.cos() * scale).to(device), (angles.sin() * scale).to(device))


_FAR_BLOCK = 2**31 // (2 * 1 * 4 * 64) + 7
"""A block whose first element lies more than 2**31 elements into the arena of `_make_far`."""


def _make_far(device: str) -> Arguments:
    """Three tokens at both ends of an arena of over 2**31 elements, of which nothing is read.

    4 GB of float16; on CPUs pages that nobody has written take no memory.
    """
    shape = _Shape(num_tokens=3, num_heads=2, num_kv_heads=1, head_dim=64, dtype=torch.float16)
    qkv, norm, rotary, _, _ = _make(device, shape)
    dims = (_FAR_BLOCK + 1, 2, 1, 4, 64)
    num_elements = dims[0] * 2 * 1 * 4 * 64
    arena = (
        # numpy's empty memory stays untouched even where torch's is filled for tests.
        torch.from_numpy(np.empty(num_elements, dtype=np.float16))
        if device == "cpu"
        else torch.empty(num_elements, dtype=torch.float16, device=device)
    )
    blocks = torch.tensor([0, _FAR_BLOCK, _FAR_BLOCK - 1], device=device)
    slots = Slots(blocks, torch.tensor([3, 2, 0], device=device))
    return qkv, norm, rotary, arena.view(dims), slots


def _observe_written(arguments: Arguments, result: Any) -> tuple[Tensor, ...]:
    """Queries, and the slots that were written."""
    kv, slots = arguments[3], arguments[4]
    return result, kv[slots.blocks, :, :, slots.offsets]


def _observe(arguments: Arguments, result: Any) -> tuple[Tensor, ...]:
    """Queries, the whole arena with its untouched slots, and the input, which must stay."""
    return result, arguments[3], arguments[0]


# Two products and a sum in float32, besides the norm's; half types round once, at 2**-9 or 2**-11
# of values up to 8.
_FLOAT32 = Tolerance(1e-6, 1e-5)
_BFLOAT16 = Tolerance(4e-3, 2.0**-7)
_FLOAT16 = Tolerance(1e-3, 2.0**-9)


def _case(name: str, shape: _Shape, tolerance: Tolerance) -> Case:
    return Case(name, partial(_make, shape=shape), tolerance, _observe)


_PLAIN = _Shape(num_tokens=5, num_heads=4, num_kv_heads=2, head_dim=16)

CASES = (
    _case("two tokens", replace(_PLAIN, num_tokens=2, is_normed=True), _FLOAT32),
    _case("one token", replace(_PLAIN, num_tokens=1, first_position=7), _FLOAT32),
    _case("no tokens", replace(_PLAIN, num_tokens=0, is_normed=True), _FLOAT32),
    _case("without norm", _PLAIN, _FLOAT32),
    _case("one key head", replace(_PLAIN, num_heads=7, num_kv_heads=1), _FLOAT32),
    _case("as many key heads", replace(_PLAIN, num_kv_heads=4, is_normed=True), _FLOAT32),
    _case("odd head counts", replace(_PLAIN, num_heads=9, num_kv_heads=3, head_dim=6), _FLOAT32),
    _case("smallest heads", replace(_PLAIN, head_dim=2), _FLOAT32),
    _case("half of a head turns", replace(_PLAIN, rotary_dim=8, is_normed=True), _FLOAT32),
    _case("a quarter turns", replace(_PLAIN, head_dim=24, rotary_dim=6), _FLOAT32),
    _case("scaled rotation", replace(_PLAIN, rotary_scale=1.3, first_position=9), _FLOAT32),
    _case("strided rows", replace(_PLAIN, stride=3, is_normed=True), _FLOAT32),
    _case("wide heads", replace(_PLAIN, head_dim=256, num_kv_heads=1, is_normed=True), _FLOAT32),
    _case("far positions", replace(_PLAIN, first_position=131_000), _FLOAT32),
    _case("every slot", replace(_PLAIN, num_tokens=64, is_normed=True), _FLOAT32),
    _case("big block ids", replace(_PLAIN, num_blocks=20_000), _FLOAT32),
    Case("arena of more than 2**31 elements", _make_far, _FLOAT16, _observe_written),
    _case("bfloat16", replace(_PLAIN, is_normed=True, dtype=torch.bfloat16), _BFLOAT16),
    _case("float16", replace(_PLAIN, is_normed=True, dtype=torch.float16), _FLOAT16),
)
