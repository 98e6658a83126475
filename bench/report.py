"""Results as data, and how they are shown: on the terminal, as markdown, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import rich.table
from rich.console import Console, Group, RenderableType
from rich.text import Text

from bench.machine import is_busy

Cell = str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """One table; units stand in the names of columns. Notes say how to read it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartResult:
    """What one part measured, and how busy the machine was around it."""

    name: str
    seconds: float
    load_before: float
    load_after: float
    tables: tuple[Table, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    machine: dict[str, str]
    is_quick: bool
    parts: tuple[PartResult, ...]
    title: str = "Serving benchmark"

    @property
    def warnings(self) -> list[str]:
        """Why these numbers should not be quoted; empty when they may be."""
        found = ["a quick run: too few samples to quote"] if self.is_quick else []
        # Later parts start on the load that earlier ones left behind.
        if self.parts and is_busy(self.parts[0].load_before):
            load = self.parts[0].load_before
            found.append(f"the machine was busy before the start: load average {load:.2f}")
        return found


def format_cell(cell: Cell) -> str:
    """Three figures that count."""
    if cell is None:
        return "-"
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else cell
    size = abs(cell)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{cell:,.{digits}f}"


def to_terminal(part: PartResult) -> RenderableType:
    """The tables of a part."""
    shown: list[RenderableType] = []
    for table in part.tables:
        grid = rich.table.Table(title=f"\n{table.title}", title_justify="left", title_style="bold")
        for index, column in enumerate(table.columns):
            grid.add_column(column, justify="right" if _is_number(table, index) else "left")
        for row in table.rows:
            grid.add_row(*map(format_cell, row))
        shown += [grid, *(Text(note, "dim") for note in table.notes)]
    return Group(*shown, Text(_around(part), "dim"))


def to_markdown(report: Report) -> str:
    """A page for people."""
    lines = [f"# {report.title}", ""]
    lines += [f"**Not for quoting: {warning}.**\n" for warning in report.warnings]
    lines += _grid(("", ""), [(name, value) for name, value in report.machine.items()])
    for part in report.parts:
        lines += ["", f"## {part.name}", "", _around(part)]
        for table in part.tables:
            lines += ["", f"### {table.title}", ""]
            aligned = [_is_number(table, index) for index in range(len(table.columns))]
            lines += _grid(table.columns, table.rows, aligned)
            lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def to_json(report: Report) -> str:
    """The same for programs, unrounded."""
    return json.dumps({"warnings": report.warnings, **asdict(report)}, indent=1) + "\n"


def write(report: Report, folder: Path, stem: str, console: Console) -> None:
    """Overwrites `stem`.md and `stem`.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".md", to_markdown(report)), (".json", to_json(report))):
        path = folder / f"{stem}{suffix}"
        path.write_text(text)
        console.print(f"wrote {path}", highlight=False)


def _around(part: PartResult) -> str:
    return (
        f"took {part.seconds:.0f} s; load average {part.load_before:.2f} before, "
        f"{part.load_after:.2f} after"
    )


def _is_number(table: Table, index: int) -> bool:
    cells = [row[index] for row in table.rows]
    return not any(isinstance(cell, str) for cell in cells)


def _grid(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], is_right: Sequence[bool] = ()
) -> list[str]:
    rules = [
        "---:" if index < len(is_right) and is_right[index] else "---"
        for index in range(len(columns))
    ]
    shown = [list(columns), rules, *([format_cell(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in shown]
