"""Arithmetic whose bits depend on a sequence alone: projections in tiles of one shape.

A matrix product may add up in another order for another number of rows. So rows are taken a fixed
number at a time, the last tile filled up with zeros: slower, but a token's numbers are then the
same alone and in a batch, in one chunk and in many, in one process and split into two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from baton.engine.model.transformer import Projection, Weights

PIECE_LEN = 512
"""Keys per piece of attention, see `AttentionBatch.piece_len`."""


@dataclass(frozen=True, slots=True)
class TiledLinear:
    """A projection in tiles of `num_rows` rows."""

    weight: Tensor
    """[num_outputs, num_inputs]."""
    bias: Tensor | None
    num_rows: int

    def __call__(self, x: Tensor) -> Tensor:
        num_tokens = x.shape[0]
        rows = F.pad(x, (0, 0, 0, -num_tokens % self.num_rows))
        out = x.new_empty(rows.shape[0], self.weight.shape[0])
        for start in range(0, rows.shape[0], self.num_rows):
            tile = slice(start, start + self.num_rows)
            out[tile] = F.linear(rows[tile], self.weight, self.bias)
        return out[:num_tokens]


def in_tiles(weights: Weights) -> Weights:
    """Weights whose projections are tiled; packed ones treat each row alike already."""
    layers = tuple(
        replace(
            layer,
            qkv=_tiled(layer.qkv),
            output=_tiled(layer.output),
            gate_up=_tiled(layer.gate_up),
            down=_tiled(layer.down),
        )
        for layer in weights.layers
    )
    return replace(weights, layers=layers, head=_tiled(weights.head))


def _tiled(projection: Projection) -> Projection:
    weight = getattr(projection, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return projection
    # On a GPU up to some 180 rows cost what reading the weights costs.
    num_rows = 128 if weight.is_cuda else 16
    return TiledLinear(weight, getattr(projection, "bias", None), num_rows)
