"""Cores that a container may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from baton.worker.cores import usable_cores

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", CORES),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("190000 100000", 1),
        ("99900000 100000", CORES),
        ("nonsense", CORES),
    ],
)
def test_a_limit_in_cgroup_2_counts_whole_cores(tmp_path: Path, limit: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")

    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", CORES), ("150000", 1)])
def test_so_does_one_in_cgroup_1(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")

    assert usable_cores(tmp_path) == cores


def test_an_affinity_counts(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)
