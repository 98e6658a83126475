"""Workers with make-believe caches around a real Redis, and how to wait for what they cause."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field

from baton.blocks import BlockKey, KvLayout
from baton.engine.types import BlockEvent, BlockEventKind
from baton.registry.announcer import Announcer
from baton.registry.client import close
from baton.registry.contact import end
from baton.registry.keys import Keys
from baton.registry.records import SnapshotPart, WorkerRecord
from baton.registry.timing import Timing
from baton.registry.watcher import Watcher
from baton.request import Role

FAST = Timing(
    lease_s=0.6,
    refresh_s=0.15,
    event_interval_s=0.005,
    load_interval_s=0.02,
    poll_s=0.05,
    booking_interval_s=0.02,
    reply_timeout_s=0.3,
    first_retry_s=0.02,
    last_retry_s=0.1,
)
"""The real intervals, ten times as fast or more."""

LAYOUT = KvLayout(16, 2, 2, 8, "float32", "namespace")


def block_key(number: int) -> BlockKey:
    """A key that is easy to tell from others."""
    return BlockKey(number.to_bytes(16, "big"))


def make_record(worker_id: str, epoch: str, role: Role = Role.DECODE) -> WorkerRecord:
    """A worker record with nothing special."""
    return WorkerRecord(
        worker_id=worker_id,
        role=role,
        address="127.0.0.1:9000",
        epoch=epoch,
        model="demo",
        layout=LAYOUT,
        num_blocks=100,
        context_len=512,
        labels={"host": "here"},
        transports=("shm", "grpc"),
    )


async def eventually(claim: Callable[[], object], within_s: float = 5.0) -> float:
    """Waits until a claim holds and returns the seconds that took; fails after a deadline."""
    start = time.monotonic()
    while not claim():
        assert time.monotonic() - start < within_s, f"not so within {within_s} s"
        await asyncio.sleep(0.002)
    return time.monotonic() - start


class Worker:
    """A worker whose cache is a set of numbers."""

    def __init__(self, announcer: Announcer) -> None:
        self.announcer = announcer
        self.cache: set[int] = set()

    def store(self, *numbers: int) -> None:
        """Caches blocks and says so."""
        self.cache.update(numbers)
        self._publish(BlockEventKind.STORED, numbers)

    def remove(self, *numbers: int) -> None:
        """Evicts blocks and says so."""
        self.cache.difference_update(numbers)
        self._publish(BlockEventKind.REMOVED, numbers)

    def clear(self) -> None:
        """Evicts everything and says so."""
        self.cache.clear()
        self._publish(BlockEventKind.CLEARED, [0])

    async def crash(self) -> None:
        """Ends without a farewell."""
        task, self.announcer._task = self.announcer._task, None
        assert task is not None
        await end(task)
        await close(self.announcer._client)

    def _publish(self, kind: BlockEventKind, numbers: Iterable[int]) -> None:
        self.announcer.publish_events([BlockEvent(kind, [block_key(n) for n in numbers])])


@dataclass
class World:
    """Workers, one watcher, and what the watcher said."""

    url: str
    keys: Keys
    timing: Timing = FAST
    workers: dict[str, Worker] = field(default_factory=dict)
    ups: list[tuple[str, str]] = field(default_factory=list)
    downs: list[tuple[str, str]] = field(default_factory=list)
    watchers: list[Watcher] = field(default_factory=list)
    announcers: list[Announcer] = field(default_factory=list)
    refuse_snapshots: int = 0
    """So many snapshots fail before one succeeds."""
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    """Snapshots are taken at once and answered when this is set; it is, at first."""
    num_asked: int = 0

    async def worker(
        self, worker_id: str, epoch: str = "e1", role: Role = Role.DECODE, *, limit: int = 65_536
    ) -> Worker:
        """Starts a worker; the newest one of a name answers for it."""
        announcer = Announcer(
            self.url,
            make_record(worker_id, epoch, role),
            keys=self.keys,
            timing=self.timing,
            max_buffered_events=limit,
        )
        self.announcers.append(announcer)
        worker = self.workers[worker_id] = Worker(announcer)
        await announcer.start()
        return worker

    async def watcher(self) -> Watcher:
        """Starts a watcher."""
        watcher = Watcher(
            self.url,
            self.snapshot,
            on_up=lambda record: self.ups.append((record.worker_id, record.epoch)),
            on_down=lambda record: self.downs.append((record.worker_id, record.epoch)),
            keys=self.keys,
            timing=self.timing,
        )
        self.watchers.append(watcher)
        await watcher.start()
        return watcher

    async def snapshot(self, record: WorkerRecord) -> AsyncGenerator[SnapshotPart, None]:
        """What a worker answers when asked for its blocks."""
        if self.refuse_snapshots:
            self.refuse_snapshots -= 1
            raise ConnectionRefusedError("the worker does not answer")
        worker = self.workers[record.worker_id]
        seq = worker.announcer.event_seq
        keys = b"".join(block_key(number) for number in worker.cache)
        self.num_asked += 1
        await self.may_answer.wait()
        middle = len(keys) // 32 * 16
        for part in (keys[:middle], keys[middle:]):
            yield SnapshotPart(worker.announcer.record.epoch, seq, part)

    def shows(self, watcher: Watcher, worker: Worker) -> bool:
        """Whether the watcher's index holds exactly the worker's cache."""
        worker_id = worker.announcer.record.worker_id
        index = watcher.index
        return index.num_blocks(worker_id) == len(worker.cache) and all(
            index.holds(worker_id, block_key(number)) for number in worker.cache
        )


@contextlib.asynccontextmanager
async def make_world(url: str, keys: Keys, timing: Timing = FAST) -> AsyncIterator[World]:
    """A world that ends its watchers and workers."""
    world = World(url, keys, timing)
    world.may_answer.set()
    try:
        yield world
    finally:
        for watcher in world.watchers:
            await watcher.stop()
        for announcer in world.announcers:
            await announcer.stop()
