"""The gateway's reader of event streams: keeps the block index in step with all caches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import structlog
from redis.exceptions import RedisError

from baton.blocks import KEY_BYTES
from baton.policy.index import BlockIndex, Changes
from baton.registry.client import FAILURES, Client, Entry, milliseconds
from baton.registry.events import CLEARED, STORED, EventBatch
from baton.registry.filling import SnapshotSource, fill
from baton.registry.keys import Keys
from baton.registry.records import WorkerRecord
from baton.registry.timing import Timing, retry_pause

BEGINNING = b"0-0"
READ_COUNT = 64
"""Entries per stream and read: at most 1.1 MB a worker."""
MAX_TAKEN_EVENTS = 4096
"""Events applied together: the event loop stands still for about two milliseconds."""
MAX_SNAPSHOTS = 8
"""Snapshots asked for at once: a fleet that restarts does not flood the gateway."""

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
    is_over: bool = False


@dataclass(slots=True, eq=False)
class _News:
    """Events of one worker, read and not applied yet."""

    cursor: Cursor
    kinds: bytearray = field(default_factory=bytearray)
    keys: bytearray = field(default_factory=bytearray)

    def add(self, batch: EventBatch, index: BlockIndex) -> None:
        """More events. What was before the cache was cleared doesn't matter any more."""
        start = batch.kinds.rfind(CLEARED) + 1
        if start:
            index.clear(self.cursor.record.worker_id)
            self.kinds.clear()
            self.keys.clear()
        self.kinds += batch.kinds[start:]
        self.keys += batch.joined_keys[start * KEY_BYTES :]

    def changes(self, start: int) -> Changes:
        """Up to 4,096 of the events."""
        end = start + MAX_TAKEN_EVENTS
        is_stored = np.frombuffer(bytes(self.kinds[start:end]), np.uint8) == STORED
        keys = bytes(self.keys[start * KEY_BYTES : end * KEY_BYTES])
        return Changes(self.cursor.record.worker_id, is_stored, keys)


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
        if cursor is not None:
            cursor.is_over = True
            if cursor.resync is not None:
                cursor.resync.cancel()
        self._index.clear(worker_id)

    def rewind(self) -> None:
        """Reads streams from their beginning: they may not be those that were read so far.

        Numbers tell what is known already and what is missing.
        """
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
                    has_read = await self._read()
                    self._index.sweep()
                    num_failures = 0
                    if has_read:
                        # What comes meanwhile is taken in bulk: a read costs more than its events.
                        await asyncio.sleep(self._timing.event_interval_s)
                except Exception as error:  # whatever it is, the index must not freeze
                    num_failures += 1
                    is_defect = not isinstance(error, FAILURES)
                    report = log.exception if is_defect else log.debug
                    report("event streams cannot be read", reason=str(error))
                    # Another server may answer next, with streams that end earlier than these.
                    self.rewind()
                    await asyncio.sleep(retry_pause(self._timing, num_failures))
        finally:
            for worker_id in list(self._cursors):
                self.unfollow(worker_id)

    async def _read(self) -> bool:
        """One blocking read over the news and all streams that do not wait for a snapshot.

        False when there was nothing.
        """
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
        all_news = []
        for name, entries in replies:
            if name == news:
                for position, fields in entries:
                    self._news_position = position
                    self._on_news(fields)
            # A cursor that was moved while we waited reads again from its new place.
            elif by_name[name].position == places[name]:
                all_news.append(self._take(by_name[name], entries))
        if all_news:
            await self._apply(all_news)
        return bool(replies)

    def _take(self, cursor: Cursor, entries: list[Entry]) -> _News:
        """The events of a stream's entries; starts over where some are missing."""
        news = _News(cursor)
        for position, fields in entries:
            batch = _batch(cursor, fields)
            if batch is None or (
                batch.epoch == cursor.record.epoch and batch.first_seq > cursor.seq + 1
            ):
                self.num_gaps += 1
                self._start_resync(cursor)
                break
            cursor.position = position
            # Other epochs: a predecessor's, or a successor's whose record is about to be seen.
            if batch.epoch == cursor.record.epoch and batch.last_seq > cursor.seq:
                cursor.seq = batch.last_seq
                news.add(batch, self._index)
        return news

    async def _apply(self, all_news: list[_News]) -> None:
        """Brings the index forward, thousands of events of many workers at a time."""
        changes: list[Changes] = []
        num_events = 0
        for news in all_news:
            for start in range(0, len(news.kinds), MAX_TAKEN_EVENTS):
                if num_events >= MAX_TAKEN_EVENTS:
                    self._index.apply(changes)
                    changes, num_events = [], 0
                    await asyncio.sleep(0)
                if news.cursor.is_over:
                    break
                changes.append(news.changes(start))
                num_events += len(changes[-1].is_stored)
        self._index.apply(changes)

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
        timeout_s = self._timing.snapshot_timeout_s
        async with asyncio.timeout(timeout_s):
            last = await self._client.xrevrange(self._keys.events(record.worker_id), count=1)
        event_seq = await fill(self._index, record, self._snapshot(record), timeout_s)
        self.num_snapshots += 1
        cursor.seq = event_seq
        cursor.position = last[0][0] if last else BEGINNING


def _batch(cursor: Cursor, fields: dict[bytes, bytes]) -> EventBatch | None:
    try:
        return EventBatch.from_fields(fields)
    except ValueError as error:
        log.warning(
            "an entry of an event stream makes no sense",
            worker_id=cursor.record.worker_id,
            reason=str(error),
        )
        return None
