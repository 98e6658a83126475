"""What gateways have promised to workers and workers have not reported yet, shared by replicas."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass

from baton.registry.client import FAILURES, Pipe, close, connect, milliseconds
from baton.registry.contact import Contact, end
from baton.registry.keys import Keys
from baton.registry.timing import Timing

FORGET_AFTER_S = 3600.0
"""Gateways without a refresh for this long leave the list; far above any clock skew."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Load on its way to a worker."""

    num_sequences: int = 0
    num_tokens: int = 0

    def __add__(self, other: Promise) -> Promise:
        return Promise(self.num_sequences + other.num_sequences, self.num_tokens + other.num_tokens)

    def __sub__(self, other: Promise) -> Promise:
        return Promise(self.num_sequences - other.num_sequences, self.num_tokens - other.num_tokens)


NOTHING = Promise()


@dataclass(slots=True, eq=False)
class Booking:
    """One promise; release it once the worker reports the load itself, or it came to nothing."""

    worker_id: str
    promise: Promise
    is_open: bool = True


class BookingBoard:
    """This gateway's promises, and those of the others as of some tenths of a second ago.

    `book`, `release` and `promised` are plain memory on the event loop. Redis is told and asked in
    the background; while it is away the others' promises count for one more lease.
    """

    def __init__(
        self,
        redis_url: str,
        gateway_id: str,
        *,
        keys: Keys | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.gateway_id = gateway_id
        self.keys = keys or Keys()
        self.timing = timing or Timing()
        self.contact = Contact("bookings", self.timing)
        self._client = connect(redis_url, self.timing)
        self._own: dict[str, Promise] = {}
        self._others: dict[str, Promise] = {}
        self._is_dirty = True
        self._next_refresh = 0.0
        self._task: asyncio.Task[None] | None = None

    def book(self, worker_id: str, num_tokens: int, num_sequences: int = 1) -> Booking:
        """Promises load to a worker."""
        booking = Booking(worker_id, Promise(num_sequences, num_tokens))
        self._own[worker_id] = self._own.get(worker_id, NOTHING) + booking.promise
        self._is_dirty = True
        return booking

    def release(self, booking: Booking) -> None:
        """Takes a promise back. Idempotent."""
        if booking.is_open:
            booking.is_open = False
            left = self._own[booking.worker_id] - booking.promise
            if left == NOTHING:
                del self._own[booking.worker_id]
            else:
                self._own[booking.worker_id] = left
            self._is_dirty = True

    def promised(self, worker_id: str) -> Promise:
        """What all gateways together have promised to a worker."""
        own = self._own.get(worker_id, NOTHING)
        if self.contact.staleness_s > self.timing.lease_s:
            return own
        return own + self._others.get(worker_id, NOTHING)

    async def start(self) -> None:
        """Starts sharing; returns after the first attempt, whether Redis answered or not."""
        self._task = asyncio.create_task(self._run(), name="bookings")
        await self.contact.attempted()

    async def stop(self) -> None:
        """Takes all promises back, if Redis answers, and ends."""
        if self._task is not None:
            await end(self._task)
            self._task = None
            with contextlib.suppress(*FAILURES):
                async with asyncio.timeout(self.timing.reply_timeout_s):
                    await self._withdraw()
        await close(self._client)

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.timing.reply_timeout_s):
                    await self._turn()
            except Exception as error:  # whatever it is, requests must go on being booked
                self._is_dirty = True
                self.contact.lost(error)
                await self.contact.pause()
            else:
                self.contact.made()
                await asyncio.sleep(self.timing.booking_interval_s)

    async def _turn(self) -> None:
        now = time.monotonic()
        pipe = self._client.pipeline(transaction=True)
        if self._is_dirty or now >= self._next_refresh:
            self._is_dirty = False
            self._next_refresh = now + self.timing.refresh_s
            self._add_own(pipe)
        pipe.zrange(self.keys.gateways, 0, -1)
        gateways = {name.decode() for name in (await pipe.execute())[-1]}
        self._others = await self._read(gateways - {self.gateway_id})

    def _add_own(self, pipe: Pipe) -> None:
        name = self.keys.bookings(self.gateway_id)
        pipe.delete(name)
        if self._own:
            fields = {
                worker_id: f"{promise.num_sequences} {promise.num_tokens}"
                for worker_id, promise in self._own.items()
            }
            pipe.hset(name, mapping=fields)
            pipe.pexpire(name, milliseconds(self.timing.lease_s))
        pipe.zadd(self.keys.gateways, {self.gateway_id: time.time()})
        pipe.zremrangebyscore(self.keys.gateways, "-inf", time.time() - FORGET_AFTER_S)

    async def _read(self, gateways: set[str]) -> dict[str, Promise]:
        if not gateways:
            return {}
        pipe = self._client.pipeline(transaction=False)
        for gateway_id in gateways:
            pipe.hgetall(self.keys.bookings(gateway_id))
        total: dict[str, Promise] = defaultdict(Promise)
        for reply in await pipe.execute():
            for worker_id, value in reply.items():
                num_sequences, num_tokens = value.split()
                total[worker_id.decode()] += Promise(int(num_sequences), int(num_tokens))
        return dict(total)

    async def _withdraw(self) -> None:
        pipe = self._client.pipeline(transaction=True)
        pipe.delete(self.keys.bookings(self.gateway_id))
        pipe.zrem(self.keys.gateways, self.gateway_id)
        await pipe.execute()
