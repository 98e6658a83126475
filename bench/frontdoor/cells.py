"""What is measured: which systems, which requests, through which doors, how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from bench.failure import BenchFailed
from bench.frontdoor.messages import Door, Shape

REMOTE_PREFILL_TOKENS = 64
"""A prompt of more tokens is handed off in the disaggregated system: all of these are."""
NUM_CLIENTS = 64
_SHORT, _MIDDLE, _LONG = Shape(128, 1), Shape(2048, 1), Shape(16384, 1)
_CROWD = (_SHORT, Shape(128, 64), _MIDDLE, Shape(2048, 64), _LONG)
_LONE = (_SHORT, _MIDDLE, _LONG, Shape(2048, 1, shared_len=1920))
_QUICK_LONGEST = 2048
_COUNTS = {
    # Prompt and output tokens: requests of one client, of many.
    (128, 1): (150, 960),
    (128, 64): (30, 384),
    (2048, 1): (100, 640),
    (2048, 64): (30, 256),
    (16384, 1): (40, 192),
}


@dataclass(frozen=True, slots=True)
class Group:
    """A system under test: workers by role."""

    name: str
    decode: int
    prefill: int = 0
    step_us: int = 0
    """How long each engine step takes; 0: none of its own."""


GROUPS = (
    Group("agg1", 1),
    Group("agg2", 2),
    Group("disagg", 1, 1),
    # Without engine time an answer is out before its client has looked, and most of its tokens
    # leave together. At the pace of an engine each is an event of its own.
    Group("paced", 1, step_us=5_000),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One load on one system."""

    group: Group
    num_clients: int
    shape: Shape
    door: Door
    num_requests: int

    @property
    def name(self) -> str:
        """What `--only` matches: system/clients/in/out/door."""
        return f"{self.group.name}/{self.num_clients}/{self.shape}/{self.door.value}"


def choose_cells(only: Sequence[str], *, is_quick: bool) -> list[Cell]:
    """All, or those that a pattern matches. Raises `BenchFailed` for one that matches none."""
    cells = _all_cells(is_quick)
    for pattern in only:
        if not any(fnmatch(cell.name, pattern) for cell in cells):
            names = ", ".join(cell.name for cell in cells)
            raise BenchFailed(f"--only {pattern} matches no cell; there are: {names}.")
    return [
        cell for cell in cells if not only or any(fnmatch(cell.name, pattern) for pattern in only)
    ]


def _all_cells(is_quick: bool) -> list[Cell]:
    one, two, disaggregated, paced = GROUPS
    doors = tuple(Door)
    plan = [
        (one, NUM_CLIENTS, _CROWD, (Door.QUICK, Door.GRPC, Door.SESSION)),
        (two, 1, _LONE, doors),
        (two, NUM_CLIENTS, _CROWD, doors),
        (disaggregated, 1, (_SHORT,), (Door.POOLED, Door.QUICK, Door.GRPC, Door.SESSION)),
        (disaggregated, NUM_CLIENTS, (_SHORT,), (Door.POOLED, Door.QUICK, Door.GRPC, Door.SESSION)),
        (paced, NUM_CLIENTS, (_SHORT, Shape(128, 64)), (Door.QUICK, Door.GRPC, Door.SESSION)),
    ]
    cells = [
        Cell(group, num_clients, shape, door, _count(shape, num_clients, is_quick))
        for group, num_clients, shapes, group_doors in plan
        for shape in shapes
        for door in group_doors
    ]
    if is_quick:
        # One decode worker and connections that are not kept show nothing new of whether it works.
        cells = [
            cell
            for cell in cells
            if cell.shape.prompt_len < _QUICK_LONGEST
            and cell.group not in (one, paced)
            and cell.door is not Door.FRESH
        ]
    return cells


def _count(shape: Shape, num_clients: int, is_quick: bool) -> int:
    lone, many = _COUNTS[shape.prompt_len, shape.output_len]
    count = lone if num_clients == 1 else many
    return max(num_clients, count // 8) if is_quick else count
