"""Processes of ours without the seconds that their imports take: forked from one that did them.

What runs in a fork is what `python -m services.decode` runs, with arguments, environment, output
and process group of its own. The parent imports and does nothing else: no thread, no event loop,
no tensor.

    process = start("services.decode", ["--listen", "127.0.0.1:0"], environment, output=log)

Looks like a `subprocess.Popen`. A start of an interpreter, as users see it, is what `tests/cli`
tests; `Cluster(is_warm=False)` has it too.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from baton.cli.processes import child_environment

ROOT = Path(__file__).resolve().parents[2]

CAN_FORK = sys.platform == "linux"
"""Elsewhere system libraries don't survive a fork, and nothing ties a child to its parent."""

_MODULES = (
    *(f"services.{name}.__main__" for name in ("gateway", "prefill", "decode", "kvstore")),
    *("baton.worker.model_engines", "baton.worker.echo_engines", "baton.text"),
    *("services.gateway.openai.server", "uvloop", "llguidance", "tokenizers", "fastokens"),
)
_MAX_MESSAGE = 1 << 18
_PR_SET_PDEATHSIG = 1
_NUM_FDS = 2
_STARTING = threading.Lock()


class WarmProcess:
    """A forked process; its end arrives on a socket of its own."""

    def __init__(self, link: socket.socket) -> None:
        self.pid = int(link.recv(32))
        self.returncode: int | None = None
        self._link = link

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The same, waited for. Raises subprocess.TimeoutExpired."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._link], [], [], timeout)[0]:
            # Without a word its parent has died, and so has it.
            self.returncode = int(self._link.recv(32) or -signal.SIGKILL)
            self._link.close()
        return self.returncode


def start(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], output: int
) -> WarmProcess:
    """Runs a module as `__main__`. `output`: the descriptor of its standard output and error.

    Safe from any thread. The processes end with this one.
    """
    ours, theirs = socket.socketpair()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    message = json.dumps([module, arguments, dict(environment), files]).encode()
    with _STARTING, theirs:
        rights = array.array("i", [output, theirs.fileno()])
        _parent().sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    return WarmProcess(ours)


@cache
def _parent() -> socket.socket:
    """Talks to the process that forks: a message for each start, and the end ends all."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        # A death signal would come when the thread that is here ends, so it has none.
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=child_environment({"OMP_NUM_THREADS": "1"}),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    atexit.register(_end, ours, process)
    return ours


def _end(link: socket.socket, process: subprocess.Popen[bytes]) -> None:
    link.close()
    process.wait(10)


class _Forker:
    """The parent's loop: forks on demand, tells each process's end, ends with its link."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._ends: dict[int, socket.socket] = {}
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)

    def run(self) -> None:
        """Returns when the tests have ended."""
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self._link, self._woken], [], [])
            if self._woken in ready:
                self._woken.recv(4096)
                self._reap()
            if self._link in ready:
                message, fds, _, _ = socket.recv_fds(self._link, _MAX_MESSAGE, _NUM_FDS)
                if not message:
                    return
                self._fork(json.loads(message), *fds)

    def _fork(self, message: list[Any], output: int, end: int) -> None:
        pid = os.fork()
        if not pid:
            self._forget()
            os._exit(_become(output, *message))
        os.close(output)
        self._ends[pid] = socket.socket(fileno=end)
        self._ends[pid].send(str(pid).encode())

    def _reap(self) -> None:
        while self._ends:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            with self._ends.pop(pid) as end, suppress(BrokenPipeError):
                end.send(str(os.waitstatus_to_exitcode(status)).encode())

    def _forget(self) -> None:
        """Leaves the parent's things to the parent."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in (self._link, self._woken, self._wake, *self._ends.values()):
            each.close()


def _become(
    output: int,
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    files: tuple[int, int],
) -> int:
    """Runs in the fork, to its end; the exit code."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_NOFILE, files)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _import_all() -> None:
    for name in _MODULES:
        import_module(name)
        if name.endswith("__main__"):
            del sys.modules[name]  # to be run, not to be found
    num_threads = len(os.listdir("/proc/self/task"))
    assert num_threads == 1, f"imports have started {num_threads - 1} threads, which don't fork"
    # A collection in a fork would touch, and so copy, all of what was imported.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as link:
        _import_all()
        _Forker(link).run()
