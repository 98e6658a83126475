"""Shows how far a run is, without taking time from what is being measured."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Steps:
    """A bar on a terminal, a line per step elsewhere. Drawn between steps, never during one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.fields[part]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._part = ""
        self._task = self._progress.add_task("", total=None, part="")

    def begin(self, part: str, total: int) -> None:
        """A part of so many steps starts."""
        self._part = part
        self._progress.reset(self._task, total=total, part=part, description="")

    def next(self, what: str) -> None:
        """A step starts; the one before it is done."""
        if not self._console.is_terminal:
            elapsed = time.monotonic() - self._began
            self._console.print(f"{elapsed:6.1f} s  {self._part}: {what}", highlight=False)
            return
        self._progress.update(self._task, advance=1, description=what, refresh=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
