"""Starts processes in order, starts them again when they fall over, stops them in reverse."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from baton.cli.errors import ProcessFailed
from baton.cli.processes import ChildProcess
from baton.cli.readiness import wait_ready
from baton.cli.topology import ProcessSpec, Stage


class State(Enum):
    """Where a process is in its life."""

    STARTING = "starting"
    READY = "ready"
    FALLEN = "fallen"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Observer(Protocol):
    """Sees what happens; called on the event loop, must not block."""

    def on_state(self, name: str, state: State, detail: str = "") -> None:
        """A process entered a state."""

    def on_line(self, name: str, line: str) -> None:
        """A process said something."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds."""

    start_s: float = 600.0
    """From the start of a process to ready: a large model loads for minutes."""
    grace_s: float = 15.0
    """From SIGTERM to SIGKILL; more than the processes' own grace for running calls."""
    first_pause_s: float = 0.1
    """Before the first restart; doubles with each that follows."""
    longest_pause_s: float = 10.0
    stable_s: float = 30.0
    """A process that was ready for so long starts again at the first pause."""


class Supervisor:
    """Owner of all processes of one cluster."""

    def __init__(
        self, stages: Sequence[Stage], observer: Observer, patience: Patience | None = None
    ) -> None:
        self._observer = observer
        self._patience = patience or Patience()
        self._stages = [
            [_Keeper(spec, observer, self._patience) for spec in stage] for stage in stages
        ]

    async def start(self) -> None:
        """Returns when all are ready. Raises ProcessFailed for the first that is not.

        Call `stop` in either case.
        """
        for stage in self._stages:
            await _start_all(stage)

    async def stop(self) -> None:
        """Drains stage by stage, last started first."""
        for stage in reversed(self._stages):
            await asyncio.gather(*(keeper.stop() for keeper in stage))

    def kill(self) -> None:
        """Ends everything at once; `stop` then has nothing left to wait for."""
        for stage in self._stages:
            for keeper in stage:
                keeper.kill()

    def pid(self, name: str) -> int:
        """The process's number now; 0 while it is down."""
        keepers = (keeper for stage in self._stages for keeper in stage)
        return next(keeper.pid for keeper in keepers if keeper.spec.name == name)


class _Keeper:
    """Keeps one process running."""

    def __init__(self, spec: ProcessSpec, observer: Observer, patience: Patience) -> None:
        self.spec = spec
        self._observer = observer
        self._patience = patience
        self._child: ChildProcess | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        running = self._child is not None and self._child.exit_code is None
        return self._child.pid if running and self._child is not None else 0

    async def start(self) -> None:
        """Brings it to ready, once; from then on it is kept running."""
        failure = await self._launch()
        if failure:
            lines = list(self._child.last_lines) if self._child is not None else []
            raise ProcessFailed(f"{self.spec.name} {failure}.", self.spec.name, lines)
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Ends it for good."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._child is None:
            return
        if self._child.exit_code is None:
            self._observer.on_state(self.spec.name, State.STOPPING)
            code = await self._child.stop(self._patience.grace_s)
            killed = "killed: it did not end in time" if code == -signal.SIGKILL else ""
            self._observer.on_state(self.spec.name, State.STOPPED, killed)

    def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
        if self._child is not None:
            self._child.send(signal.SIGKILL)

    async def _launch(self) -> str:
        """Starts it and waits for ready. Returns what went wrong, empty: nothing."""
        self._observer.on_state(self.spec.name, State.STARTING)
        self._child = child = ChildProcess(self.spec, self._observer.on_line)
        try:
            await child.start()
        except OSError as error:
            return f"could not be started: {error}"
        ready, ended = asyncio.create_task(wait_ready(self.spec)), asyncio.create_task(child.wait())
        try:
            await asyncio.wait(
                {ready, ended},
                timeout=self._patience.start_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if ended.done():
                return f"ended before it was ready: {_describe_exit(ended.result())}"
            if not ready.done():
                await child.stop(self._patience.grace_s)
                return f"was not ready within {self._patience.start_s:g} s"
            ready.result()
        finally:
            ready.cancel()
            ended.cancel()
        self._observer.on_state(self.spec.name, State.READY)
        return ""

    async def _keep(self) -> None:
        pause = self._patience.first_pause_s
        ready_at = time.monotonic()
        reason = ""
        while True:
            if not reason and self._child is not None:
                reason = _describe_exit(await self._child.wait())
                if time.monotonic() - ready_at >= self._patience.stable_s:
                    pause = self._patience.first_pause_s
            detail = f"{reason}; starting again in {pause:g} s"
            self._observer.on_state(self.spec.name, State.FALLEN, detail)
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._patience.longest_pause_s)
            reason = await self._launch()
            ready_at = time.monotonic()


async def _start_all(keepers: Sequence[_Keeper]) -> None:
    """Side by side; the first failure ends the others' waiting."""
    starts = [asyncio.create_task(keeper.start()) for keeper in keepers]
    try:
        await asyncio.gather(*starts)
    finally:
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
