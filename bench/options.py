"""How large a run is, and what its parts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console

from bench.machine import num_cores
from bench.progress import Steps

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run:
    """Handed to every part."""

    is_quick: bool
    steps: Steps
    console: Console

    def size(self, full: T, quick: T) -> T:
        """A number of things to do, or a length of time."""
        return quick if self.is_quick else full


def total_threads() -> int:
    """Threads for arithmetic of a whole system: the cores, two at least."""
    return max(2, num_cores())


def worker_threads() -> int:
    """Of each of the two workers of a disaggregated system."""
    return total_threads() // 2
