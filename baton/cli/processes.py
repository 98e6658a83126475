"""One child process: its start under a tether, its lines, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from baton.cli import tether
from baton.cli.topology import ROOT, ProcessSpec

LineSink = Callable[[str, str], None]
"""Takes a process's name and one line of its output."""

_KEPT_LINES = 200
# Longer lines than this are cut up; a program that logs blobs must not grow our memory.
_LINE_LIMIT_BYTES = 1 << 16


def tethered(command: tuple[str, ...]) -> list[str]:
    """The command in the form that ends when this process does."""
    # -I and -S: no site-packages, no environment; the tether starts in a hundredth of a second.
    return [sys.executable, "-I", "-S", str(Path(tether.__file__)), str(os.getpid()), *command]


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours and the spec's; services are found whether or not the repository is installed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


class ChildProcess:
    """A running process and its latest lines. Use once; a restart is a new one."""

    def __init__(self, spec: ProcessSpec, on_line: LineSink) -> None:
        self.spec = spec
        self.last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts it. Raises OSError where the system refuses."""
        self._process = await asyncio.create_subprocess_exec(
            *tethered(self.spec.command),
            env=child_environment(self.spec.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_LIMIT_BYTES,
            # Its own group: Ctrl-C reaches the supervisor only, which drains in order.
            start_new_session=True,
        )
        self._reader = asyncio.create_task(self._read_lines())

    @property
    def pid(self) -> int:
        """The system's number for it; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.returncode if self._process is not None else None

    async def wait(self) -> int:
        """Returns its exit code once it has ended and its last line has been read."""
        assert self._process is not None
        assert self._reader is not None
        code = await self._process.wait()
        # A grandchild may hold the pipe open; what it says later is nobody's news.
        await asyncio.wait({self._reader}, timeout=1.0)
        self._reader.cancel()
        return code

    async def stop(self, grace_s: float) -> int:
        """SIGTERM, and SIGKILL when the grace is over. Returns the exit code."""
        self.send(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace_s)
        except TimeoutError:
            self.send(signal.SIGKILL)
            return await self.wait()

    def send(self, number: signal.Signals) -> None:
        """Signals it, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _read_lines(self) -> None:
        assert self._process is not None
        stream = self._process.stdout
        assert stream is not None
        while True:
            try:
                raw = await stream.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                raw = end.partial
            except asyncio.LimitOverrunError as overrun:
                raw = await stream.read(overrun.consumed)
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip()
            self.last_lines.append(line)
            self._on_line(self.spec.name, line)
