"""The gateway's reader of event streams: keeps the block index in step with all caches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import compress

import structlog
from redis.exceptions import RedisError

from baton.blocks import BlockKey
from baton.policy.index import BlockIndex
from baton.registry.client import FAILURES, Client, Entry, milliseconds
from baton.registry.events import CLEARED, STORED, EventBatch
from baton.registry.keys import Keys
from baton.registry.records import Snapshot, WorkerRecord
from baton.registry.timing import Timing, retry_pause

BEGINNING = b"0-0"
READ_COUNT = 64
"""Entries per stream and read: at most 1.1 MB a worker."""
MAX_SNAPSHOTS = 8
"""Snapshots asked for at once: a fleet that restarts does not flood the gateway."""

# A kind's byte to whether it stores, or removes: what `compress` picks keys by.
_IS_STORED = bytes(kind == STORED for kind in range(256))
_IS_REMOVED = bytes(kind != STORED for kind in range(256))

SnapshotSource = Callable[[WorkerRecord], Awaitable[Snapshot]]

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Cursor:
    """How far one worker's stream has been read."""

    record: WorkerRecord
    position: bytes | None = None
    """Stream entry read last; None while a snapshot is on its way and the stream rests."""
    seq: int = 0
    """Number of the last event in the index."""
    resync: asyncio.Task[None] | None = None


class Follower:
    """Follows the streams of all workers it is told of, on a connection of its own.

    A worker starts with a snapshot: first the stream's end is noted, then the worker is asked, then
    its stream is read from the noted place; events that the snapshot contains are skipped by
    number. A gap in the numbers starts over. Until the new snapshot is there the old keys stay: the
    index is a hint.
    """

    def __init__(
        self,
        client: Client,
        index: BlockIndex,
        snapshot: SnapshotSource,
        on_news: Callable[[dict[bytes, bytes]], None],
        keys: Keys,
        timing: Timing,
    ) -> None:
        self.num_gaps = 0
        self.num_snapshots = 0
        self._client = client
        self._index = index
        self._snapshot = snapshot
        self._on_news = on_news
        self._keys = keys
        self._timing = timing
        self._cursors: dict[str, Cursor] = {}
        self._news_position = BEGINNING
        self._snapshots = asyncio.Semaphore(MAX_SNAPSHOTS)

    def is_synced(self, worker_id: str) -> bool:
        """Whether the index holds this worker's blocks as of some recent moment."""
        cursor = self._cursors.get(worker_id)
        return cursor is not None and cursor.position is not None

    def follow(self, record: WorkerRecord) -> None:
        """Starts with a worker, or starts over: one with a new epoch caches nothing."""
        self.unfollow(record.worker_id)
        cursor = self._cursors[record.worker_id] = Cursor(record)
        self._start_resync(cursor)

    def unfollow(self, worker_id: str) -> None:
        """Forgets a worker and its blocks."""
        cursor = self._cursors.pop(worker_id, None)
        if cursor is not None and cursor.resync is not None:
            cursor.resync.cancel()
        self._index.clear(worker_id)

    def rewind(self) -> None:
        """Redis has lost its streams: what they hold now is new, numbers tell what is missing."""
        self._news_position = BEGINNING
        for cursor in self._cursors.values():
            if cursor.position is not None:
                cursor.position = BEGINNING

    async def run(self) -> None:
        """Reads until cancelled, Redis or not; the watcher is the one to log outages."""
        num_failures = 0
        try:
            while True:
                try:
                    await self._read()
                    self._index.sweep()
                    num_failures = 0
                except Exception as error:  # whatever it is, the index must not freeze
                    num_failures += 1
                    is_defect = not isinstance(error, FAILURES)
                    report = log.exception if is_defect else log.debug
                    report("event streams cannot be read", reason=str(error))
                    await asyncio.sleep(retry_pause(self._timing, num_failures))
        finally:
            for worker_id in list(self._cursors):
                self.unfollow(worker_id)

    async def _read(self) -> None:
        """One blocking read over the news and all streams that do not wait for a snapshot."""
        by_name = {
            self._keys.events(worker_id).encode(): cursor
            for worker_id, cursor in self._cursors.items()
            if cursor.position is not None
        }
        places = {name: cursor.position or BEGINNING for name, cursor in by_name.items()}
        news = self._keys.news.encode()
        wanted = {news: self._news_position, **places}
        # No longer than a poll: streams of new workers join at the next read.
        block_s = self._timing.poll_s
        async with asyncio.timeout(block_s + self._timing.reply_timeout_s):
            replies = await self._client.xread(
                wanted, count=READ_COUNT, block=milliseconds(block_s)
            )
        for name, entries in replies:
            if name == news:
                for position, fields in entries:
                    self._news_position = position
                    self._on_news(fields)
            # A cursor that was moved while we waited reads again from its new place.
            elif by_name[name].position == places[name]:
                self._take(by_name[name], entries)
                await asyncio.sleep(0)

    def _take(self, cursor: Cursor, entries: list[Entry]) -> None:
        for position, fields in entries:
            cursor.position = position
            try:
                is_whole = self._apply(cursor, EventBatch.from_fields(fields))
            except ValueError as error:
                log.warning(
                    "an entry of an event stream makes no sense",
                    worker_id=cursor.record.worker_id,
                    reason=str(error),
                )
                is_whole = False
            if not is_whole:
                self.num_gaps += 1
                self._start_resync(cursor)
                return

    def _apply(self, cursor: Cursor, batch: EventBatch) -> bool:
        """Brings the index forward; False when events are missing in between."""
        if batch.epoch != cursor.record.epoch:
            return True  # a predecessor's, or a successor's whose record is about to be seen
        if batch.first_seq > cursor.seq + 1:
            return False
        if batch.last_seq <= cursor.seq:
            return True
        worker_id = cursor.record.worker_id
        keys = batch.keys
        if CLEARED in batch.kinds or len(set(keys)) < len(keys):
            self._apply_in_order(worker_id, batch.kinds, keys)
        else:
            # No key comes twice, so the order does not matter.
            is_stored = batch.kinds.translate(_IS_STORED)
            is_removed = batch.kinds.translate(_IS_REMOVED)
            self._index.remove_all(worker_id, compress(keys, is_removed))
            self._index.store_all(worker_id, compress(keys, is_stored))
        cursor.seq = batch.last_seq
        return True

    def _apply_in_order(self, worker_id: str, kinds: bytes, keys: list[BlockKey]) -> None:
        for kind, key in zip(kinds, keys, strict=True):
            if kind == STORED:
                self._index.store(worker_id, key)
            elif kind == CLEARED:
                self._index.clear(worker_id)
            else:
                self._index.remove(worker_id, key)

    def _start_resync(self, cursor: Cursor) -> None:
        cursor.position = None
        name = f"snapshot of {cursor.record.worker_id}"
        cursor.resync = asyncio.create_task(self._resync(cursor), name=name)

    async def _resync(self, cursor: Cursor) -> None:
        num_failures = 0
        while True:
            try:
                async with self._snapshots:
                    await self._try_resync(cursor)
                return
            except (
                Exception
            ) as error:  # the caller's snapshot may fail in any way; we only try again
                num_failures += 1
                is_news = num_failures == 1 and not isinstance(error, RedisError)
                report = log.warning if is_news else log.debug
                report(
                    "no snapshot of a worker's blocks; trying again",
                    worker_id=cursor.record.worker_id,
                    reason=f"{type(error).__name__}: {error}",
                )
                await asyncio.sleep(retry_pause(self._timing, num_failures))

    async def _try_resync(self, cursor: Cursor) -> None:
        record = cursor.record
        async with asyncio.timeout(self._timing.snapshot_timeout_s):
            last = await self._client.xrevrange(self._keys.events(record.worker_id), count=1)
            snapshot = await self._snapshot(record)
        if snapshot.epoch != record.epoch:
            raise ValueError(f"the snapshot is of epoch {snapshot.epoch}, not {record.epoch}")
        self.num_snapshots += 1
        self._index.replace(record.worker_id, snapshot.keys)
        cursor.seq = snapshot.event_seq
        cursor.position = last[0][0] if last else BEGINNING
