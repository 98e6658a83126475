"""What all tests share: cluster tests get processes, and the processes' logs when they fail."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import PurePath
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Read when torch is loaded. On matrices this small a second thread costs more than it gives, and
# all the more beside another test.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines differ in speed, so no example has a deadline and slow or picky generation is no failure.
# CI tries the same examples each time; elsewhere new ones are looked for.
settings.register_profile(
    "baton",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("baton")


PROCESSES = ("cluster", "handoff", "fuzz", "cli")
"""Folders whose tests start processes that need the machine: one of them runs at a time."""
LONG = ("kernels", "engine", "model", "guides", "bench")
"""Folders whose tests compute for long: they begin early, short ones fill up the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what takes long first, so that two workers end at about the same time."""
    order = {name: rank for rank, name in enumerate((*PROCESSES, *LONG))}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Says which tests stay together when `make test` runs several at a time.

    A module does, for its fixtures; and so do all that start clusters.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return "processes" if PurePath(module).parent.name in PROCESSES else module

    return ByFolder(config, log)


def pytest_collection_finish() -> None:
    """Spares collections of garbage the look at all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """Lets no garbage be collected while plugins import their last modules.

    A warning of an unclosed connection is printed with the source it came from, which is parsed;
    CPython 3.11 can't parse while it parses (https://github.com/python/cpython/issues/106905).
    """
    gc.collect()
    gc.disable()


@pytest.fixture
def start_cluster(tmp_path) -> Iterator[Callable[..., Any]]:
    """Starts clusters, `start_cluster(prefill=2)`, and stops them when the test ends."""
    from cluster import Cluster

    started: list[Cluster] = []

    def start(**options: Any) -> Cluster:
        folder = tmp_path / f"cluster-{len(started)}"
        folder.mkdir()
        started.append(Cluster(folder, **options))
        return started[-1].start()

    yield start
    for cluster in reversed(started):
        cluster.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the end of every process's log under a test that failed."""
    report = yield
    # Tests without processes never load the module.
    module = sys.modules.get("cluster")
    if report.failed and module is not None:
        for cluster in list(module.Cluster.live):
            for name, text in cluster.last_logs().items():
                report.sections.append((f"log of {name}", text))
    return report
