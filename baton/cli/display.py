"""What the user sees of the processes: progress while they start, then their lines."""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from baton.cli.errors import ProcessFailed
from baton.cli.supervisor import State

_COLORS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_magenta")
_LEVEL = re.compile(r"\[(warning|error|critical)\s*\]")
_SHOWN_LINES = 20


class Display:
    """Observer of a supervisor. Inside `with`, a terminal shows one spinner per process."""

    def __init__(
        self,
        console: Console,
        names: list[str],
        *,
        quiet: Collection[str] = (),
        prefixed: bool = True,
    ) -> None:
        """`quiet` names processes whose lines are kept back until they fail to start."""
        self._console = console
        self._quiet = frozenset(quiet)
        self._prefixed = prefixed
        self._width = max(map(len, names), default=0)
        self._colors = {name: _COLORS[at % len(_COLORS)] for at, name in enumerate(names)}
        self._rows = {name: _Row(name, self._width) for name in names}
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=10, transient=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __rich__(self) -> Table:
        """The progress as of now; `Live` asks for it several times a second."""
        table = Table.grid(padding=(0, 1))
        for row in self._rows.values():
            table.add_row(*row.cells())
        return table

    def on_state(self, name: str, state: State, detail: str = "") -> None:
        """Keeps the time of each state; speaks where no spinner does."""
        row = self._rows[name]
        row.enter(state)
        if state is State.FALLEN or detail:
            self._console.print(self._prefix(name) + Text(f"{state.value}: {detail}", "bold red"))
        elif self._live is None and state is State.READY:
            self._console.print(
                Text.assemble("  ", *row.cells()[1:2], f" ready {row.took_s:.1f} s")
            )

    def on_line(self, name: str, line: str) -> None:
        """Prints the line behind its process's name."""
        if name in self._quiet:
            return
        if not self._prefixed:
            self._console.out(line, highlight=False)
            return
        match = _LEVEL.search(line)
        style = {"warning": "yellow"}.get(match[1], "red") if match else ""
        self._console.print(self._prefix(name) + Text(line, style), soft_wrap=True)

    def show_failure(self, failure: ProcessFailed) -> None:
        """The last words of a process that did not start, unless they have been seen."""
        if failure.name not in self._quiet:
            return
        for line in failure.last_lines[-_SHOWN_LINES:]:
            self._console.print(self._prefix(failure.name) + Text(line), soft_wrap=True)

    def _prefix(self, name: str) -> Text:
        return Text(f"{name:<{self._width}} | ", self._colors[name])


class _Row:
    """One process's line of the progress."""

    def __init__(self, name: str, width: int) -> None:
        self.took_s = 0.0
        self._name = f"{name:<{width}}"
        self._state: State | None = None
        self._since = time.monotonic()
        self._spinner = Spinner("dots")

    def enter(self, state: State) -> None:
        now = time.monotonic()
        if state is State.READY:
            self.took_s = now - self._since
        if state is not self._state:
            self._state, self._since = state, now

    def cells(self) -> tuple[Spinner | Text, Text, Text]:
        if self._state is None:
            return Text(" "), Text(self._name, "dim"), Text("waiting", "dim")
        if self._state is State.READY:
            return Text("✓", "green"), Text(self._name), Text(f"{self.took_s:.1f} s", "green")
        if self._state is State.STARTING:
            elapsed = time.monotonic() - self._since
            return self._spinner, Text(self._name), Text(f"loading {elapsed:.0f} s", "yellow")
        return Text("·"), Text(self._name), Text(escape(self._state.value))
