"""How long a step takes, from a table. Pure: a file in, a function of three numbers out."""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import product
from math import isfinite
from pathlib import Path

from baton.errors import ModelError

AXES = ("prompt_tokens", "decode_sequences", "context_tokens")
VALUE = "step_us"

_Point = tuple[float, ...]


class StepTimes:
    """A table of step times over a grid, linear between its points and beyond its last ones.

    The axes: prompt tokens computed in the step, sequences that compute only their newest token,
    and tokens that attention reads. Below an axis' first point, that point holds.
    """

    def __init__(self, times_us: Mapping[_Point, float]) -> None:
        """Raises ModelError where a combination of the axes' values is missing."""
        self._times_us = dict(times_us)
        if not times_us:
            raise ModelError("the table of step times has no rows; give at least 1")
        self._axes = [sorted(set(values)) for values in zip(*times_us, strict=True)]
        missing = next((p for p in product(*self._axes) if p not in self._times_us), None)
        if missing is not None:
            named = ", ".join(f"{name} {x:g}" for name, x in zip(AXES, missing, strict=True))
            raise ModelError(f"the table of step times has no row for {named}; it must be a grid")

    def step_us(self, prompt_tokens: int, decode_sequences: int, context_tokens: int) -> float:
        """Microseconds of a step; never negative."""
        wanted = (prompt_tokens, decode_sequences, context_tokens)
        sides = [_sides(axis, x) for axis, x in zip(self._axes, wanted, strict=True)]
        total = 0.0
        for corner in product(*sides):
            weight = 1.0
            for _, share in corner:
                weight *= share
            total += weight * self._times_us[tuple(x for x, _ in corner)]
        return max(0.0, total)


def read_step_times(path: Path) -> StepTimes:
    """The table in a CSV file; lines that begin with # are comments. Raises ModelError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"the step times in {path} cannot be read: {error}") from error
    reader = csv.DictReader(line for line in lines if line.strip() and line[0] != "#")
    wanted = [*AXES, VALUE]
    if reader.fieldnames != wanted:
        raise ModelError(f"{path}: the columns are {reader.fieldnames}, not {wanted}")
    try:
        return StepTimes(_rows(reader))
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}") from error


def _rows(reader: Iterable[Mapping[str, str]]) -> dict[_Point, float]:
    times: dict[_Point, float] = {}
    for row in reader:
        try:
            *point, time_us = (float(row[name]) for name in (*AXES, VALUE))
        except (TypeError, ValueError) as error:
            raise ModelError(f"the row {row} is not made of numbers") from error
        if not all(isfinite(x) and x >= 0 for x in (*point, time_us)):
            raise ModelError(f"the row {row} holds a number that is negative or not finite")
        if tuple(point) in times:
            raise ModelError(f"the row {row} comes twice")
        times[tuple(point)] = time_us
    return times


def _sides(axis: list[float], x: float) -> list[tuple[float, float]]:
    """The points to either side of `x` with their shares, which add up to 1."""
    if len(axis) == 1 or x <= axis[0]:
        return [(axis[0], 1.0)]
    at = min(bisect_right(axis, x), len(axis) - 1)
    low, high = axis[at - 1], axis[at]
    share = (x - low) / (high - low)
    return [(low, 1.0 - share), (high, share)]
