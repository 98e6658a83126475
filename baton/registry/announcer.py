"""The worker's side: says who it is, what it caches and how busy it is, for as long as it lives."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import structlog

from baton.blocks import BlockKey
from baton.registry.client import FAILURES, close, connect
from baton.registry.commands import WorkerCommands
from baton.registry.contact import Contact, end
from baton.registry.events import MAX_BUFFERED_EVENTS, REMOVED, STORED, CacheEvent, EventBuffer
from baton.registry.keys import Keys
from baton.registry.records import LoadRecord, WorkerRecord
from baton.registry.timing import Timing

MAX_TURN_BATCHES = 8
"""A turn sends at most 8,192 events, 140 KB: renewing the lease never waits long behind events."""

log = structlog.stdlib.get_logger(__name__)


class Announcer:
    """Keeps the record, load and block events of one worker or kvstore in Redis.

    All `publish_*` methods return at once, never raise for Redis' sake, and belong to the event
    loop of `start`. Redis away: it goes on trying; the newest load and a bounded number of events
    wait. Events that do not fit are dropped, and on return an empty batch that names the next
    event's number lets gateways see the gap and ask for a snapshot.
    """

    def __init__(
        self,
        redis_url: str,
        record: WorkerRecord,
        *,
        keys: Keys | None = None,
        timing: Timing | None = None,
        max_buffered_events: int = MAX_BUFFERED_EVENTS,
    ) -> None:
        self.record = record
        self.keys = keys or Keys()
        self.timing = timing or Timing()
        self.contact = Contact(f"announcer of {record.worker_id}", self.timing)
        self.is_superseded = False
        """Whether a younger process has taken this worker id."""
        self._client = connect(redis_url, self.timing)
        self._commands = WorkerCommands(self.keys, self.timing, record.worker_id)
        self._events = EventBuffer(record.epoch, max_buffered_events)
        self._load: object | None = None
        self._sent_load: object | None = None
        self._announced: WorkerRecord | None = None
        """The record as Redis has it, as far as we know."""
        self._has_joined = False
        self._next_refresh = 0.0
        self._last_send = 0.0
        self._last_load = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def event_seq(self) -> int:
        """Number of the newest event published; read it before asking an engine for a snapshot."""
        return self._events.last_seq

    @property
    def num_lost_events(self) -> int:
        """Events dropped because Redis was away for too long."""
        return self._events.num_lost

    async def start(self) -> None:
        """Announces the worker; returns after the first attempt, whether Redis answered or not."""
        self._task = asyncio.create_task(self._run(), name="announcer")
        await self.contact.attempted()

    async def stop(self) -> None:
        """Takes the worker's record back, if Redis answers, and ends."""
        if self._task is not None:
            await end(self._task)
            self._task = None
            with contextlib.suppress(*FAILURES):
                async with asyncio.timeout(self.timing.reply_timeout_s):
                    await self._withdraw()
        await close(self._client)

    def publish_events(self, events: Sequence[CacheEvent]) -> None:
        """Block events, in the order in which they happened."""
        if events:
            self._note_events()
            self._events.append(events)

    def publish_stored(self, keys: Sequence[BlockKey]) -> None:
        """This kvstore holds these blocks from now on."""
        self._note_events()
        self._events.add(STORED, keys)

    def publish_removed(self, keys: Sequence[BlockKey]) -> None:
        """No tier of this kvstore holds these blocks any more."""
        self._note_events()
        self._events.add(REMOVED, keys)

    def _note_events(self) -> None:
        if not len(self._events):  # else the next turn is due anyway
            self._wake.set()

    def publish_load(self, load: object) -> None:
        """The newest load: a `LoadRecord`, an engine's `StepLoad`, a mapping with those names, or
        what returns one of these.
        """
        if self._load is self._sent_load:
            self._wake.set()
        self._load = load  # becomes a record when it is sent: most are replaced before

    def update_record(self, **changes: Any) -> None:
        """Changes fields of the record, such as `is_draining`; worker id and epoch stay."""
        if {"worker_id", "epoch"} & changes.keys():
            raise ValueError("a worker keeps its worker_id and epoch; start another announcer")
        self.record = replace(self.record, **changes)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.timing.reply_timeout_s):
                    await self._turn()
            except Exception as error:  # whatever it is, a worker that serves must not fall silent
                self._announced = None
                self.contact.lost(error)
                await self.contact.pause()
            else:
                self.contact.made()
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        while (delay := self._next_turn() - time.monotonic()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    def _next_turn(self) -> float:
        """When to turn next, by what is waiting."""
        due = self._next_refresh
        if self.is_superseded:
            return due
        if self._announced is not self.record or len(self._events):
            due = min(due, self._last_send + self.timing.event_interval_s)
        if self._load is not self._sent_load:
            due = min(due, self._last_load + self.timing.load_interval_s)
        return due

    async def _turn(self) -> None:
        """Renews what is due and sends what is waiting."""
        now = time.monotonic()
        holder = await self._client.hget(self.keys.worker(self.record.worker_id), "epoch")
        if holder is None:
            self._announced = None
        if self._yields_to(holder):
            self._next_refresh = now + self.timing.refresh_s
        else:
            await self._send(now)

    def _yields_to(self, holder: bytes | None) -> bool:
        """Whether a younger process has taken this worker's id; it wins, lest they take turns."""
        is_foreign = holder is not None and holder.decode() != self.record.epoch
        superseded = is_foreign and self._has_joined
        if superseded:
            self._announced = None
            self._events.drop()
        if superseded and not self.is_superseded:
            log.error(
                "another process announces this worker id; this one is not announced any more",
                worker_id=self.record.worker_id,
                epoch=self.record.epoch,
            )
        self.is_superseded = superseded
        return superseded

    async def _send(self, now: float) -> None:
        """One transaction with all that is waiting, kept until Redis has it."""
        record, load = self.record, self._load
        batches = self._events.batches(MAX_TURN_BATCHES)
        renews = record is not self._announced or now >= self._next_refresh
        sends_load = load is not None and (
            renews or now >= self._last_load + self.timing.load_interval_s
        )
        pipe = self._client.pipeline(transaction=True)
        if not self._has_joined:
            self._commands.forget_predecessor(pipe)
        if record is not self._announced:
            self._commands.announce(pipe, record, self._events.marker())
        if renews:
            self._commands.renew(pipe)
        self._commands.events(pipe, batches)
        if load is not None and sends_load:
            self._commands.load(pipe, LoadRecord.of(load() if callable(load) else load))
        await pipe.execute()
        self._has_joined, self._announced, self._last_send = True, record, now
        if batches:
            self._events.sent(batches[-1].last_seq)
        if renews:
            self._next_refresh = now + self.timing.refresh_s
        if sends_load:
            self._sent_load, self._last_load = load, now

    async def _withdraw(self) -> None:
        holder = await self._client.hget(self.keys.worker(self.record.worker_id), "epoch")
        if holder is not None and holder.decode() == self.record.epoch:
            pipe = self._client.pipeline(transaction=True)
            self._commands.withdraw(pipe, self.record.epoch)
            await pipe.execute()
