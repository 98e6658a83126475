"""How many cores this process may keep busy."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """At least 1: the machine's cores, less where an affinity or a container's CPU limit says so.

    A limit of 2.5 cores gives 2: a third thread would be stopped for half of its time, and the
    others wait for it in every product.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = _limit(cgroup)
    return max(1, min(cores or 1, int(limit) if limit is not None else cores or 1))


def _limit(cgroup: Path) -> float | None:
    """The container's quota in cores; None: there is none."""
    try:  # cgroup 2: "200000 100000" or "max 100000"
        quota, period = (cgroup / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:  # cgroup 1: -1 is no limit
        quota_us = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        return (
            quota_us / int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
            if quota_us > 0
            else None
        )
    except (OSError, ValueError):
        return None
