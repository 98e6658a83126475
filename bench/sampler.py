"""`python -m bench.sampler OUT MODULE FLAGS`: runs a module and writes where its CPU time went.

A thread looks at all stacks a thousand times a second and weighs each with the CPU time its thread
has used since the last look; so waiting weighs nothing. Time spent outside Python's threads (gRPC's
own) is one line. It costs the sampled process a few percent.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

_PERIOD_S = 0.001
# The sampler must get its turn soon: by default a busy thread keeps the interpreter for 5 ms.
_SWITCH_S = 0.0002
_SHOWN = 30
_OUTSIDE = "(threads of native code)"
_SAMPLER = "(sampler)"
_IMPORT = "importlib._bootstrap>:_find_and_load"
_LOOP = (":Runner.run", "._run_once", ".run_until_complete", ".run_forever", ":Handle._run")


def main() -> None:
    """Runs the module as if it had been started itself; the file is written at its end."""
    out, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    # What `python -m MODULE` would have found first.
    sys.path[0] = os.getcwd()
    sys.setswitchinterval(_SWITCH_S)
    sampler = Sampler()
    sampler.start()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sampler.stop()
        sampler.write(out)


class Sampler:
    """Collects CPU time by stack."""

    def __init__(self) -> None:
        self._nanos: Counter[str] = Counter()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._began = 0

    def start(self) -> None:
        """Starts looking."""
        self._began = time.process_time_ns()
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._done.set()
        self._thread.join()
        whole = time.process_time_ns() - self._began
        self._nanos[_OUTSIDE] = max(0, whole - sum(self._nanos.values()))

    def write(self, path: Path) -> None:
        """One line per stack, outermost first, with its microseconds: what flame graphs are of."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{stack} {nanos // 1000}\n" for stack, nanos in self._nanos.most_common())
        path.write_text("".join(lines))

    def _run(self) -> None:
        me, used = threading.get_ident(), dict[int, int]()
        while not self._done.wait(_PERIOD_S):
            threads = {thread.ident: thread.native_id for thread in threading.enumerate()}
            for thread, frame in sys._current_frames().items():
                now = _thread_nanos(threads.get(thread))
                spent = now - used.get(thread, now)
                used[thread] = now
                if spent > 0:
                    stack = _SAMPLER if thread == me else ";".join(reversed(list(_names(frame))))
                    self._nanos[stack] += spent


def _thread_nanos(native_id: int | None) -> int:
    """CPU time of a thread; 0 of one that has ended."""
    if native_id is None:
        return 0
    try:
        # Linux's number of a thread's clock. Asking for it by pthread would crash for a dead one.
        return time.clock_gettime_ns((~native_id << 3) | 6)
    except OSError:
        return 0


def _names(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        code = frame.f_code
        folder, _, name = code.co_filename.rpartition(os.sep)
        yield f"{folder.rpartition(os.sep)[2]}/{name}:{code.co_qualname}"
        frame = frame.f_back


def print_profile(path: Path, whose: str, console: Console) -> None:
    """The functions that used most, by their own time and with what they called; no imports."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    sampler_s = 0.0
    for line in path.read_text().splitlines():
        stack, _, micros = line.rpartition(" ")
        if stack == _SAMPLER:
            sampler_s = int(micros) / 1e6
        elif _IMPORT not in stack:
            names = _from_loop_on(stack.split(";"))
            own[names[-1]] += int(micros)
            for name in set(names):
                whole[name] += int(micros)
    total = sum(own.values()) or 1
    views = (("own", own, whole), ("with callees", whole, own))
    for title, counted, other in views:
        grid = Table(title=f"\n{whose}: CPU by function, {title}", title_justify="left")
        for column in ("function", "ms", "%", "own %" if other is own else "with callees %"):
            grid.add_column(column, justify="left" if column == "function" else "right")
        for name, spent in counted.most_common(_SHOWN):
            shares = (f"{100 * spent / total:.1f}", f"{100 * other[name] / total:.1f}")
            grid.add_row(name, f"{spent / 1e3:,.0f}", *shares)
        console.print(grid)
    console.print(
        f"{total / 1e6:.2f} s of CPU without imports and without {sampler_s:.2f} s of the sampler's"
        f" own; all stacks are in {path}",
        highlight=False,
    )


def _from_loop_on(names: list[str]) -> list[str]:
    """A stack without what every stack of an event loop begins with."""
    last = max((at for at, name in enumerate(names) if name.endswith(_LOOP)), default=-1)
    return names[last + 1 :] or names[-1:]


if __name__ == "__main__":
    main()
