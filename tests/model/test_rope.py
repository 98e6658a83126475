"""Rotations of positions, near and far."""

from __future__ import annotations

import pytest
import torch

from baton.engine.model.config import RopeConfig
from baton.engine.model.rope import Rope

DIM = 8


def _rope() -> Rope:
    return Rope(RopeConfig("default", 10_000.0, {}), DIM, "cpu")


@pytest.mark.parametrize(
    "positions", [[], [0], [5, 3, 3], [1023], [1024, 0], [1500, 1501, 70_000, 2]]
)
def test_rotations_are_those_of_the_definition(positions: list[int]) -> None:
    rotary = _rope().at(torch.tensor(positions, dtype=torch.int64))

    exponents = torch.arange(0, DIM, 2, dtype=torch.float64) / DIM
    frequencies = (1.0 / 10_000.0**exponents).repeat(2)
    angles = torch.tensor(positions, dtype=torch.float64)[:, None] * frequencies
    # Angles are float32: of 70,000 the nearest lie 0.008 apart.
    torch.testing.assert_close(rotary.cos.double(), angles.cos(), atol=1e-2, rtol=0)
    torch.testing.assert_close(rotary.sin.double(), angles.sin(), atol=1e-2, rtol=0)


def test_a_position_has_the_same_bits_before_and_behind_a_far_one() -> None:
    rope, near = _rope(), torch.tensor([0, 7, 900])
    before = rope.at(near)

    rope.at(torch.tensor([40_000]))
    behind = rope.at(near)

    assert torch.equal(before.cos, behind.cos)
    assert torch.equal(before.sin, behind.sin)
