"""Start-up: from the command `baton demo` to the first token it prints, stage by stage."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from baton.cli.processes import child_environment, tethered
from baton.cli.topology import DEMO_MODEL, ROOT
from bench.failure import BenchFailed
from bench.options import Run
from bench.report import Cell, Table
from bench.stats import percentile

AIM_S = 10.0
_LIMIT_S = 120.0
_STOP_S = 20.0
_STAGES = ("command runs", "redis", "kvstore", "model loaded", "workers", "gateway", "first token")
_MARKS = (
    ("command runs", re.compile(r"^Starting \d+ processes")),
    ("redis", re.compile(r"^\s+redis\s+ready")),
    ("kvstore", re.compile(r"^\s+kvstore-0\s+ready")),
    # Two workers load side by side; the later mark of each counts.
    ("model loaded", re.compile(r"\bmodel loaded\b")),
    ("workers", re.compile(r"^\s+(?:prefill|decode)-0\s+ready")),
    ("gateway", re.compile(r"^\s+gateway-0\s+ready")),
)
_QUESTION = re.compile(r"^> ", re.MULTILINE)
# A process's own line, which may come between the question and the answer.
_PREFIXED = re.compile(r"^[a-z]+(-\d+)? +\| .*$\n?", re.MULTILINE)


@dataclass(slots=True)
class Timeline:
    """When each stage was reached, in seconds from the command; read from what it prints."""

    at: dict[str, float] = field(default_factory=dict)
    _line: str = ""
    _answer: str | None = None

    def take(self, text: str, at: float) -> None:
        """Reads on. Raises nothing: a stage that is never reached stays missing."""
        if self._answer is None:
            self._line += text
            *lines, self._line = self._line.split("\n")
            for number, line in enumerate(lines):
                self._note(line, at)
                if _QUESTION.match(line):
                    self._answer, self._line = "\n".join([*lines[number + 1 :], self._line]), ""
                    break
        else:
            self._answer += text
        if self._answer is not None and "first token" not in self.at and self._has_answer():
            self.at["first token"] = at

    def _note(self, line: str, at: float) -> None:
        for stage, pattern in _MARKS:
            if pattern.search(line):
                self.at[stage] = at

    def _has_answer(self) -> bool:
        """Whether anything but lines of processes has come; half a line may become one."""
        rest = _PREFIXED.sub("", self._answer or "").strip()
        return bool(rest) and not re.match(r"^[a-z]+(-\d+)? +\|", rest)


async def run(run: Run) -> list[Table]:
    """One run with cold files, then warm ones."""
    num_warm = run.size(4, 1)
    run.steps.begin("startup", 1 + num_warm)
    run.steps.next("baton demo, cold")
    num_evicted = await asyncio.to_thread(evict_files, _files())
    cold = await _run_demo()
    warm = []
    for number in range(1, num_warm + 1):
        run.steps.next(f"baton demo, warm, {number} of {num_warm}")
        warm.append(await _run_demo())
    return [_table(cold, warm, num_evicted)]


def evict_files(paths: Iterable[Path]) -> int:
    """Asks the kernel to forget cached pages; returns the bytes of these files."""
    num_bytes = 0
    for path in paths:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                num_bytes += os.fstat(descriptor).st_size
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
    return num_bytes


def _files() -> list[Path]:
    """All that a first run reads: installed packages, our code, the demo model."""
    folders = [Path(sys.prefix) / "lib", DEMO_MODEL]
    folders += [ROOT / name for name in ("baton", "services", "kernels")]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


async def _run_demo() -> Timeline:
    """One `baton demo` to its end. Raises `BenchFailed` where it fails or prints no answer."""
    command = tethered((sys.executable, "-m", "baton.cli", "demo", "--device=cpu", "--verbose"))
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command,
        env=child_environment({"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        # Ctrl-C is for us; we then tell it, once.
        start_new_session=True,
    )
    assert process.stdout is not None
    timeline = Timeline()
    said = b""
    try:
        async with asyncio.timeout(_LIMIT_S):
            while piece := await process.stdout.read(1 << 16):
                timeline.take(piece.decode(errors="replace"), time.monotonic() - began)
                said += piece
            code = await process.wait()
    except TimeoutError:
        raise BenchFailed(f"baton demo did not end within {_LIMIT_S:.0f} s.") from None
    finally:
        await _end(process)
    missing = [stage for stage in _STAGES if stage not in timeline.at]
    if code != 0 or missing:
        words = said.decode(errors="replace")[-2000:]
        raise BenchFailed(f"baton demo ended with {code}, without {missing}; it said:\n{words}")
    timeline.at["stopped"] = time.monotonic() - began
    return timeline


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ends it if it still runs; it stops its own processes."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _table(cold: Timeline, warm: list[Timeline], num_evicted: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    before_cold = before_warm = 0.0
    for stage in (*_STAGES, "stopped"):
        times = [timeline.at[stage] for timeline in warm]
        middle = percentile(times, 50) or 0.0
        added = (cold.at[stage] - before_cold, middle - before_warm)
        rows.append((stage, cold.at[stage], added[0], middle, added[1], max(times)))
        before_cold, before_warm = cold.at[stage], middle
    return Table(
        "From the command `baton demo` to its first token, five processes",
        (
            "reached",
            "cold s",
            "of that here s",
            "warm p50 s",
            "of that here s",
            "warm max s",
        ),
        tuple(rows),
        (
            f"cold: the first run after {num_evicted / 1e6:,.0f} MB of files (packages, code, "
            "model) were dropped from the page cache, as far as no other process maps them; "
            f"warm: {len(warm)} run(s) right behind it",
            f"aim: under {AIM_S:.0f} s warm; creating the virtual environment is not part of it",
        ),
    )
