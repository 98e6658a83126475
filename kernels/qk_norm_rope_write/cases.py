"""Cases of qk_norm_rope_write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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


def _make(device: str, shape: _Shape) -> Arguments:
    num_heads = shape.num_heads + 2 * shape.num_kv_heads
    qkv = normal((shape.num_tokens, num_heads * shape.head_dim), seed=1, dtype=shape.dtype)
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
    return qkv.to(device), norm, _rotary(device, shape), arena.to(device)[:, 1], slots


def _rotary(device: str, shape: _Shape) -> Rotary:
    positions = torch.arange(shape.num_tokens, dtype=torch.float32) + shape.first_position
    pairs = torch.arange(0, shape.head_dim, 2) / shape.head_dim
    angles = torch.outer(positions, 10_000.0**-pairs).repeat(1, 2)
    return Rotary(angles.cos().to(device), angles.sin().to(device))


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
    _case("far positions", replace(_PLAIN, first_position=131_000), _FLOAT32),
    _case("every slot", replace(_PLAIN, num_tokens=64, is_normed=True), _FLOAT32),
    _case("big block ids", replace(_PLAIN, num_blocks=20_000), _FLOAT32),
    _case("bfloat16", replace(_PLAIN, is_normed=True, dtype=torch.bfloat16), _BFLOAT16),
    _case("float16", replace(_PLAIN, is_normed=True, dtype=torch.float16), _FLOAT16),
)
