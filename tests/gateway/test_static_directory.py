"""Workers at fixed addresses, without Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from baton.blocks import BlockKey
from baton.registry.records import WorkerRecord
from baton.request import Role
from services.gateway import static_directory
from services.gateway.snapshots import WorkerDesk
from services.gateway.static_directory import StaticDirectory
from tests.support.fake_decode import LAYOUT, FakeDecode, eventually


class Watched:
    """A directory and what it reported."""

    def __init__(self, *addresses: str) -> None:
        self.news: list[tuple[str, str]] = []
        self.directory = StaticDirectory(
            addresses,
            WorkerDesk(),
            lambda record: self.note("up", record),
            lambda record: self.note("down", record),
        )

    def note(self, what: str, record: WorkerRecord) -> None:
        self.news.append((what, record.epoch))


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_directory, "ASK_EVERY_SECONDS", 0.02)


@pytest.fixture
async def worker() -> AsyncIterator[FakeDecode]:
    worker = await FakeDecode().start()
    worker.snapshot = (bytes(range(32)), 7)
    yield worker
    await worker.stop()


@pytest.fixture
async def watched(worker: FakeDecode) -> AsyncIterator[Watched]:
    watched = Watched(worker.address)
    await watched.directory.start()
    yield watched
    await watched.directory.stop()


async def test_a_worker_is_known_behind_the_first_look(watched, worker):
    record = watched.directory.workers["decode-0"]

    assert (record.role, record.address, record.epoch) == (
        Role.DECODE,
        worker.address,
        worker.epoch,
    )
    assert (record.model, record.layout, record.context_len) == ("toy", LAYOUT, 64)
    assert watched.news == [("up", worker.epoch)]
    assert watched.directory.staleness_s < 1


async def test_its_cached_blocks_are_known_too(watched):
    await eventually(lambda: watched.directory.index.num_blocks("decode-0") == 2)

    assert watched.directory.index.match([BlockKey(bytes(range(16)))]) == {"decode-0": 1}


async def test_blocks_are_asked_for_again_when_the_worker_has_worked(watched, worker):
    await eventually(lambda: watched.directory.index.num_blocks("decode-0") == 2)

    worker.snapshot = (bytes(range(48)), 8)
    worker.free_blocks = 90

    await eventually(lambda: watched.directory.index.num_blocks("decode-0") == 3)
    assert watched.directory.loads["decode-0"].num_used_blocks == 10


async def test_a_restarted_worker_is_a_down_and_an_up(watched, worker):
    before = worker.epoch
    worker.epoch = "second-life"

    await eventually(lambda: len(watched.news) == 3)

    assert watched.news == [("up", before), ("down", before), ("up", "second-life")]


async def test_a_worker_that_stays_silent_goes_and_may_come_back(watched, worker):
    address, epoch = worker.address, worker.epoch
    await worker.stop()
    await eventually(lambda: watched.news[-1] == ("down", epoch))
    known = dict(watched.directory.workers)

    await worker.start(address)
    await eventually(lambda: watched.news[-1] == ("up", epoch))

    await eventually(lambda: watched.directory.index.num_blocks("decode-0") == 2)

    assert known == {}


async def test_a_missing_worker_does_not_hold_the_start_up(monkeypatch, worker):
    monkeypatch.setattr(static_directory, "FIRST_LOOK_SECONDS", 0.2)
    gone = await FakeDecode("decode-1").start()
    await gone.stop()
    watched = Watched(gone.address, worker.address)

    await watched.directory.start()
    known = set(watched.directory.workers)
    await watched.directory.stop()

    assert known == {"decode-0"}
