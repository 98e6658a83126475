"""What every `python -m bench.…` begins and ends with."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench.machine import is_busy, load_average
from bench.report import PartResult, Report, Table, write

RESULTS = Path(__file__).resolve().parent / "results"


def open_console(width: int = 200) -> Console:
    """As wide as the terminal; where there is none, lines have `width` characters."""
    return Console(width=None if sys.stdout.isatty() else width)


@dataclass(frozen=True, slots=True)
class Opening:
    """The moment before the first measurement of a part."""

    load: float = field(default_factory=load_average)
    at_s: float = field(default_factory=time.monotonic)

    def result(self, name: str, tables: Iterable[Table]) -> PartResult:
        """What the part measured until now."""
        seconds = time.monotonic() - self.at_s
        return PartResult(name, seconds, self.load, load_average(), tuple(tables))


def introduce(machine: dict[str, str], console: Console) -> Opening:
    """Shows where a run measures, and whether the machine has other things to do."""
    opening = Opening()
    for name, value in machine.items():
        console.print(f"{name:9} {value}", highlight=False, markup=False)
    if is_busy(opening.load):
        console.print(f"the machine is busy: load average {opening.load:.2f}", style="yellow")
    return opening


def conclude(
    report: Report, out: Path, words: Iterable[tuple[str, object]], console: Console
) -> None:
    """Writes the report under the words that are true, joined by `-`, and says what it is not.

    So a partial or quick run does not take the place of a whole one.
    """
    write(report, out, "-".join(word for word, is_so in words if is_so), console)
    for warning in report.warnings:
        console.print(f"not for quoting: {warning}", style="bold yellow")


def fail(error: Exception, console: Console) -> None:
    """Says why there is no report."""
    console.print(f"\nbenchmark failed: {error}", style="bold red", markup=False)
