"""Tile shapes and how kernels are compiled for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.launch import num_processors
from kernels.paged_attention.plan import Tile

PARTS_AT_ONCE = 16
"""Parts that a program of `merge` reads at once. Of fixed pieces one, since the sum of several
would depend on how many before them a window hides."""


@dataclass(frozen=True, slots=True)
class Config:
    """How `attend` is compiled for a kind of tile."""

    tile: Tile
    num_warps: int
    num_stages: int


def configs(
    group: int, head_dim: int, element_bytes: int, device: torch.device
) -> tuple[Config, Config]:
    """For chunks of few tokens, and for those of more.

    Few: bound by memory, so what counts is bytes in flight: two programs a processor, each with two
    steps of keys and values underway while it computes a third. More: bound by wgmma, two warp
    groups that take 64 rows each. Loads of block ids take a stage before those of keys, hence the
    odd numbers of stages: 7 make three buffers, 5 make two, with one more under wgmma.
    """
    processors = num_processors(device)
    keys, num_stages = _step(head_dim, element_bytes)
    is_plain = keys == 64
    narrow = Tile(max(16, padded(group)), keys, 2 * processors)
    wide = Tile(max(128 if is_plain else 64, padded(group)), keys, processors)
    return Config(narrow, 4, num_stages), Config(wide, 8, min(num_stages, 5))


def fixed_config(group: int, head_dim: int, element_bytes: int) -> Config:
    """For all chunks alike, where results may not depend on the batch."""
    keys, num_stages = _step(head_dim, element_bytes)
    tile = Tile(max(64, padded(group)), keys, num_parallel=1)
    return Config(tile, 4 if keys == 64 else 8, min(num_stages, 5))


def _step(head_dim: int, element_bytes: int) -> tuple[int, int]:
    """Keys at a step, and stages: 64 heads of 128 bfloat16 numbers are 16 KB of shared memory."""
    head_bytes = padded(head_dim) * element_bytes
    return (64, 7) if head_bytes <= 256 else (32, 7 if head_bytes <= 512 else 3)


def padded(size: int) -> int:
    """The power of two, at least 16, that matrix instructions take."""
    return max(16, 1 << (size - 1).bit_length())
