"""A process of ours as tests run it, its log lines read as they come; `warm.py` starts modules."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import warm

ROOT = Path(__file__).resolve().parents[2]


class ServiceProcess:
    """`with ServiceProcess("-m", "services.kvstore", …) as kvstore: kvstore.address`."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        path = os.pathsep.join([str(ROOT), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
        arguments = (*arguments, "--log-format", "json")
        ours, theirs = os.pipe()
        self._output = os.fdopen(ours)
        self.process: subprocess.Popen[bytes] | warm.WarmProcess
        if arguments[0] == "-m" and warm.CAN_FORK:
            self.process = warm.start(arguments[1], arguments[2:], environment, theirs)
        else:
            self.process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, stderr=theirs
            )
        os.close(theirs)
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    @property
    def address(self) -> str:
        """Where it listens, once it is ready."""
        return str(self.wait_for("ready")["address"])

    @property
    def output(self) -> str:
        """All that it wrote to stderr so far; all there is once it has ended."""
        if self.process.poll() is not None:
            self._reader.join(10)
        return "".join(self.lines)

    def wait_for(self, event: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """The first log line of this event."""
        with self._changed:
            self._changed.wait_for(lambda: self._find(event) or self._has_ended, timeout_s)
            found = self._find(event)
        assert found is not None, f"no event {event!r} in:\n{''.join(self.lines)}"
        return found

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 20.0) -> int:
        """The exit code."""
        return self.process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(10)
        self._output.close()

    def _read(self) -> None:
        for line in self._output:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _find(self, event: str) -> dict[str, Any] | None:
        for line in self.lines:
            if line.startswith("{"):
                values: dict[str, Any] = json.loads(line)
                if values.get("event") == event:
                    return values
        return None
