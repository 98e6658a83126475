"""A kvstore process to measure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from baton.cli.topology import ROOT
from bench.failure import BenchFailed

START_LIMIT_S = 120.0


class StoreProcess:
    """`with StoreProcess("--disk", …) as store: store.address`."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "services.kvstore", "--listen", "127.0.0.1:0"]
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [*command, "--log-format", "json", *flags],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._events: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens, once it is ready."""
        return str(self.event("ready")["address"])

    def event(self, name: str) -> dict[str, Any]:
        """The first log line of this event, with the seconds since the start as `at_s`."""
        with self._changed:
            has_come = self._changed.wait_for(lambda: name in self._events, START_LIMIT_S)
        if not has_come:
            raise BenchFailed(f"kvstore said no {name!r} within {START_LIMIT_S:g} s")
        return self._events[name]

    def kill(self) -> None:
        """As kill -9 does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.startswith("{"):
                found = json.loads(line)
                with self._changed:
                    found["at_s"] = time.monotonic() - self._began
                    self._events.setdefault(found["event"], found)
                    self._changed.notify_all()
