"""What gateways have at workers, shared by replicas: sequences, and tokens still to compute."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import orjson

from baton.policy.shares import NOBODY, Line
from baton.registry.client import FAILURES, Pipe, close, connect, milliseconds
from baton.registry.contact import Contact, end
from baton.registry.keys import Keys
from baton.registry.timing import Timing

_SWEEP = """
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then redis.call('ZREM', KEYS[1], ARGV[i - 1]) end
end
"""
# One step, lest a gateway that comes between look and removal is taken off the list.
_NOBODY = ""
"""Worker id of a promise to nobody."""


EXPIRY_S = 0.05
"""What was booked or taken back of late is looked through this often while requests come; it is of
late for some tenths of a second, give or take a tenth."""


# Not frozen, that takes three times as long to make. Nobody changes one.
@dataclass(slots=True)
class Promise:
    """Load that gateways have at a worker."""

    num_sequences: int = 0
    """From their submission to their end."""
    num_tokens: int = 0
    """To be computed, until the first token of their request comes."""
    num_new_tokens: int = 0
    """The part of them that the worker's own word may not contain yet."""

    def __add__(self, other: Promise) -> Promise:
        return Promise(
            self.num_sequences + other.num_sequences,
            self.num_tokens + other.num_tokens,
            self.num_new_tokens + other.num_new_tokens,
        )


NOTHING = Promise()
Lines = Mapping[str, Line]
"""By model."""


@dataclass(slots=True, eq=False)
class Booking:
    """What one request has at one worker: `computed` with its first token, `release` at its end."""

    worker_id: str
    num_sequences: int
    num_tokens: int
    is_open: bool = True


# Not frozen: it changes with every booking.
@dataclass(slots=True)
class _Account:
    """What this gateway has at one worker, and what it has booked and taken back of late."""

    num_sequences: int = 0
    num_tokens: int = 0
    num_new_tokens: int = 0
    num_gone_sequences: int = 0
    num_gone_tokens: int = 0
    num_fading: int = 0
    """Changes that still count as of late."""

    @property
    def promise(self) -> Promise:
        new = min(self.num_new_tokens, self.num_tokens)
        return Promise(self.num_sequences, self.num_tokens, new)


_Change = tuple[float, str, int, int, int]
"""When it ceases to be of late, worker, and tokens booked, sequences and tokens taken back."""


class BookingBoard:
    """This gateway's promises, and those of the others as of some tenths of a second ago.

    All but `start` and `stop` is plain memory on the event loop. Redis is told and asked in the
    background; while it is away the others' promises count for one more lease.
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
        self._own: dict[str, _Account] = {}
        self._changed: set[str] = set()
        # A worker's word is sent and read at these intervals; a tenth more for its way.
        self._late_s = self.timing.load_interval_s + self.timing.poll_s + 0.1
        self._fading: deque[_Change] = deque()
        self._next_expiry = 0.0
        self._others: dict[str, Promise] = {}
        self._is_dirty = True
        self._next_refresh = 0.0
        self._look_at_lines: Callable[[], Lines] = dict
        self._told_lines: Lines = {}
        self._other_lines: dict[str, list[Line]] = {}
        self._task: asyncio.Task[None] | None = None

    def share_lines(self, look: Callable[[], Lines]) -> None:
        """Tells the others from now on who waits here, by model; asked in each turn."""
        self._look_at_lines = look

    def other_lines(self, model: str) -> Sequence[Line]:
        """Who waits for a model at other gateways."""
        if self.contact.staleness_s > self.timing.lease_s:
            return ()
        return self._other_lines.get(model, ())

    def book(self, worker_id: str, num_tokens: int, num_sequences: int = 1) -> Booking:
        """Promises load to a worker."""
        account = self._own.get(worker_id)
        if account is None:
            account = self._own[worker_id] = _Account()
        account.num_sequences += num_sequences
        account.num_tokens += num_tokens
        if num_tokens:
            account.num_new_tokens += num_tokens
            self._fade(account, worker_id, num_tokens, 0, 0)
        self._touch(worker_id)
        return Booking(worker_id, num_sequences, num_tokens)

    def computed(self, booking: Booking) -> None:
        """Its tokens are computed; its sequences stay. Idempotent."""
        if booking.is_open and booking.num_tokens:
            self._take(booking.worker_id, 0, booking.num_tokens)
            booking.num_tokens = 0

    def release(self, booking: Booking) -> None:
        """Takes all of a promise back. Idempotent."""
        if booking.is_open:
            booking.is_open = False
            self._take(booking.worker_id, booking.num_sequences, booking.num_tokens)

    def promised(self, worker_id: str) -> Promise:
        """What all gateways together have at a worker."""
        account = self._own.get(worker_id)
        own = account.promise if account is not None else NOTHING
        others = self._others.get(worker_id)
        if others is None or self.contact.staleness_s > self.timing.lease_s:
            return own
        return own + others

    def gone(self, worker_id: str) -> Promise:
        """What this gateway has taken back of late: the worker's word may still contain it."""
        account = self._own.get(worker_id)
        if account is None:
            return NOTHING
        return Promise(account.num_gone_sequences, account.num_gone_tokens)

    def take_changed(self) -> Set[str]:
        """Workers whose promises have changed since the last call."""
        if time.monotonic() >= self._next_expiry:
            self.expire()
        changed, self._changed = self._changed, set()
        return changed

    def _take(self, worker_id: str, num_sequences: int, num_tokens: int) -> None:
        account = self._own[worker_id]
        account.num_sequences -= num_sequences
        account.num_tokens -= num_tokens
        account.num_gone_sequences += num_sequences
        account.num_gone_tokens += num_tokens
        self._fade(account, worker_id, 0, num_sequences, num_tokens)
        self._touch(worker_id)

    def _fade(
        self, account: _Account, worker_id: str, new: int, gone_sequences: int, gone: int
    ) -> None:
        account.num_fading += 1
        end = time.monotonic() + self._late_s
        self._fading.append((end, worker_id, new, gone_sequences, gone))

    def _touch(self, worker_id: str) -> None:
        self._changed.add(worker_id)
        self._is_dirty = True

    def expire(self) -> None:
        """Forgets what is of late no more; `take_changed` does so often enough."""
        fading, now = self._fading, time.monotonic()
        self._next_expiry = now + EXPIRY_S
        while fading and fading[0][0] <= now:
            _, worker_id, new, gone_sequences, gone = fading.popleft()
            account = self._own[worker_id]
            account.num_new_tokens -= new
            account.num_gone_sequences -= gone_sequences
            account.num_gone_tokens -= gone
            account.num_fading -= 1
            if not account.num_fading and account.promise == NOTHING:
                del self._own[worker_id]
            self._changed.add(worker_id)
            # Others are told what is new, not what has gone.
            self._is_dirty |= new > 0

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
        self.expire()
        now = time.monotonic()
        pipe = self._client.pipeline(transaction=True)
        lines = dict(self._look_at_lines())
        if self._is_dirty or lines != self._told_lines or now >= self._next_refresh:
            self._is_dirty = False
            self._told_lines = lines
            self._next_refresh = now + self.timing.refresh_s
            self._add_own(pipe)
        pipe.zrange(self.keys.gateways, 0, -1)
        gateways = {name.decode() for name in (await pipe.execute())[-1]}
        others = await self._read(gateways - {self.gateway_id})
        self._changed |= self._others.keys() | others.keys()
        self._others = others

    def _add_own(self, pipe: Pipe) -> None:
        key = self.keys.bookings(self.gateway_id)
        pipe.delete(key)
        own = {name: account.promise for name, account in self._own.items()}
        fields = {name: _written(promise) for name, promise in own.items() if promise != NOTHING}
        # The hash is the gateway's lease too, so it is there without a promise.
        pipe.hset(key, mapping=fields | {_NOBODY: _written(NOTHING)})
        pipe.pexpire(key, milliseconds(self.timing.lease_s))
        key = self.keys.lines(self.gateway_id)
        pipe.delete(key)
        if self._told_lines:
            told = {name: orjson.dumps(line.to_values()) for name, line in self._told_lines.items()}
            pipe.hset(key, mapping=told)
            pipe.pexpire(key, milliseconds(self.timing.lease_s))
        pipe.zadd(self.keys.gateways, {self.gateway_id: time.time()})

    async def _read(self, gateways: set[str]) -> dict[str, Promise]:
        lines: dict[str, list[Line]] = defaultdict(list)
        total: dict[str, Promise] = defaultdict(Promise)
        if not gateways:
            self._other_lines = {}
            return {}
        pipe = self._client.pipeline(transaction=False)
        for gateway_id in gateways:
            pipe.hgetall(self.keys.bookings(gateway_id))
            pipe.hgetall(self.keys.lines(gateway_id))
        replies = await pipe.execute()
        dead = []
        for gateway_id, booked, waiting in zip(gateways, replies[::2], replies[1::2], strict=True):
            if not booked:
                dead.append(gateway_id)
            for worker_id, value in booked.items():
                total[worker_id.decode()] += _read(value)
            for model, value in waiting.items():
                lines[model.decode()].append(_read_line(value))
        total.pop(_NOBODY, None)
        self._other_lines = lines
        if dead:
            await self._sweep(dead)
        return dict(total)

    async def _sweep(self, dead: list[str]) -> None:
        """Takes gateways whose lease has ended off the list."""
        names = [self.keys.gateways, *map(self.keys.bookings, dead)]
        pipe = self._client.pipeline(transaction=False)
        pipe.eval(_SWEEP, len(names), *names, *dead)
        await pipe.execute()

    async def _withdraw(self) -> None:
        pipe = self._client.pipeline(transaction=True)
        pipe.delete(self.keys.bookings(self.gateway_id), self.keys.lines(self.gateway_id))
        pipe.zrem(self.keys.gateways, self.gateway_id)
        await pipe.execute()


def _written(promise: Promise) -> str:
    return f"{promise.num_sequences} {promise.num_tokens} {promise.num_new_tokens}"


def _read(value: bytes) -> Promise:
    """Those of other versions may say more or less."""
    return Promise(*map(int, value.split()[:3]))


def _read_line(value: bytes) -> Line:
    """One that cannot be read, of another version say, is that of nobody."""
    try:
        return Line.from_values(orjson.loads(value))
    except ValueError:
        return NOBODY
