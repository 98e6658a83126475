"""What a measurement was made on. Linux: it reads /proc."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from baton.cli.topology import ROOT

_PACKAGES = ("torch", "grpcio", "protobuf", "numpy", "uvicorn", "redis")
_GONE = (FileNotFoundError, ProcessLookupError)
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
BUSY_SHARE = 0.3
"""Load above this share of the cores, before we add our own, spoils numbers."""


def describe_machine() -> dict[str, str]:
    """Hardware, system and versions."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{_cpu_model()}, {num_cores()} cores usable",
        "memory": f"{pages / 2**30:.1f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "revision": _revision(),
    }
    return facts | {name: version(name) for name in _PACKAGES}


def num_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def is_busy(load: float) -> bool:
    """Whether others were at work."""
    return load > BUSY_SHARE * num_cores()


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used, user and system, all its threads; in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # Behind the name in brackets: state is field 3 of proc(5), utime 14, stime 15.
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def process_tree(pid: int) -> list[int]:
    """A process and its descendants. They live in threads' lists of children."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(*_GONE):
                found += map(int, path.read_text().split())
    return found


def tree_cpu_seconds(pid: int) -> float:
    """The same of a process and all its descendants that run now."""
    return _sum_over_tree(pid, cpu_seconds)


def tree_resident_mib(pid: int) -> float:
    """Resident memory of a process and its descendants; pages they share count for each."""
    return _sum_over_tree(pid, _resident_mib)


def _sum_over_tree(pid: int, measure: Callable[[int], float]) -> float:
    total = measure(pid)
    for child in process_tree(pid)[1:]:
        # A descendant may end between the two looks.
        with suppress(*_GONE):
            total += measure(child)
    return total


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _revision() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
