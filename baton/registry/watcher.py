"""The gateway's side: who is there, how busy they are, what they cache."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable

import structlog

from baton.policy.index import BlockIndex
from baton.policy.rendezvous import are_places_known
from baton.registry.client import close, connect
from baton.registry.contact import Contact, end
from baton.registry.filling import SnapshotSource
from baton.registry.follower import Follower
from baton.registry.keys import Keys
from baton.registry.loads import Loads
from baton.registry.records import LoadRecord, WorkerRecord
from baton.registry.timing import Timing
from baton.request import Role

OnWorker = Callable[[WorkerRecord], None]

log = structlog.stdlib.get_logger(__name__)


class Watcher:
    """Knows all workers from Redis and goes on with what it knows while Redis is away.

    `workers`, `loads` and `index` are plain values to read at any moment on the event loop; nothing
    is awaited. A worker goes when it says so or when its lease ends. While Redis is away nobody
    goes, nor in the first lease after its return: the workers need that time to renew theirs.
    Callbacks run on the event loop and must not block; a new epoch is a down and an up.
    """

    def __init__(
        self,
        redis_url: str,
        snapshot: SnapshotSource,
        *,
        on_up: OnWorker | None = None,
        on_down: OnWorker | None = None,
        keys: Keys | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.workers: dict[str, WorkerRecord] = {}
        self.version = 0
        """Grows whenever `workers` changes."""
        self.loads = Loads()
        self.index = BlockIndex()
        self.keys = keys or Keys()
        self.timing = timing or Timing()
        self.contact = Contact("watcher", self.timing)
        self._on_up = on_up
        self._on_down = on_down
        self._clients = [connect(redis_url, self.timing) for _ in range(2)]
        self.follower = Follower(
            self._clients[1], self.index, snapshot, self._take_news, self.keys, self.timing
        )
        self._farewells: set[tuple[str, str]] = set()
        self._incarnation: bytes | None = None
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def staleness_s(self) -> float:
        """Seconds since Redis last answered: how old what we know may be."""
        return self.contact.staleness_s

    async def start(self) -> None:
        """Starts watching; returns after the first look, whether Redis answered or not."""
        self._tasks = [
            asyncio.create_task(self._run(), name="watcher"),
            asyncio.create_task(self.follower.run(), name="follower"),
        ]
        await self.contact.attempted()

    async def stop(self) -> None:
        """Ends. What was known stays readable, but the index is emptied."""
        for task in self._tasks:
            await end(task)
        self._tasks = []
        for client in self._clients:
            await close(client)

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                async with asyncio.timeout(self.timing.reply_timeout_s):
                    await self._poll()
            except Exception as error:  # whatever it is, a gateway must not stop watching
                self.contact.lost(error)
                await self.contact.pause()
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.timing.poll_s):
                        await self._wake.wait()

    async def _poll(self) -> None:
        client = self._clients[0]
        ids = [name.decode() for name in await client.zrange(self.keys.workers, 0, -1)]
        pipe = client.pipeline(transaction=False)
        for worker_id in ids:
            pipe.hgetall(self.keys.worker(worker_id))
        for worker_id in ids:
            pipe.get(self.keys.load(worker_id))
        # Asked for last: had Redis lost its data before any of the reads, this answer has changed.
        pipe.set(self.keys.incarnation, secrets.token_hex(8), nx=True)
        pipe.get(self.keys.incarnation)
        replies = await pipe.execute()
        self.contact.made()
        self._check_incarnation(replies[-1])
        self._update_workers(ids, replies[: len(ids)])
        self._update_loads(ids, replies[len(ids) : 2 * len(ids)])

    def _check_incarnation(self, incarnation: bytes) -> None:
        if self._incarnation is not None and incarnation != self._incarnation:
            log.warning("redis has lost its data; waiting for the workers to announce themselves")
            self.contact.restart()
            self.follower.rewind()
        self._incarnation = incarnation

    def _update_workers(self, ids: list[str], hashes: list[dict[bytes, bytes]]) -> None:
        present = {worker_id for worker_id, raw in zip(ids, hashes, strict=True) if raw}
        may_expire = self.contact.unbroken_s >= self.timing.lease_s
        for worker_id, known in list(self.workers.items()):
            has_left = (worker_id, known.epoch) in self._farewells
            if worker_id not in present and (may_expire or has_left):
                self._remove(known, "it said so" if has_left else "its lease ended")
        for worker_id, raw in zip(ids, hashes, strict=True):
            if raw:
                self._see(worker_id, raw)
        self._farewells &= {(known.worker_id, known.epoch) for known in self.workers.values()}
        self._set_stores()

    def _set_stores(self) -> None:
        stores: dict[str, str] = {}
        spelled = set()
        for known in self.workers.values():
            if known.role is Role.KVSTORE:
                if not known.is_draining:
                    stores[known.worker_id] = known.address
            elif known.kvstores:
                spelled.add(known.kvstores)
        is_known = are_places_known(stores.values(), spelled)
        self.index.set_stores(stores, stores if is_known else None)

    def _see(self, worker_id: str, raw: dict[bytes, bytes]) -> None:
        try:
            record = WorkerRecord.from_fields(raw)
        except ValueError as error:
            log.warning("a worker record makes no sense", worker_id=worker_id, reason=str(error))
            return
        known = self.workers.get(worker_id)
        if known is not None and known.epoch != record.epoch:
            self._remove(known, "it has a new epoch")
            known = None
        if known != record:  # else the old one stays: whoever keeps it sees at a glance
            self.workers[worker_id] = record
            self.version += 1
        if known is None:
            self._add(record)

    def _add(self, record: WorkerRecord) -> None:
        log.info(
            "worker is up",
            worker_id=record.worker_id,
            role=record.role.name,
            address=record.address,
            epoch=record.epoch,
        )
        if record.announces_events:
            self.follower.follow(record)
        _call(self._on_up, record)

    def _remove(self, record: WorkerRecord, reason: str) -> None:
        log.info("worker is down", worker_id=record.worker_id, epoch=record.epoch, reason=reason)
        del self.workers[record.worker_id]
        self.version += 1
        self.loads.pop(record.worker_id, None)
        self.follower.unfollow(record.worker_id)
        _call(self._on_down, record)

    def _update_loads(self, ids: list[str], loads: list[bytes | None]) -> None:
        for worker_id, raw in zip(ids, loads, strict=True):
            if raw is not None and worker_id in self.workers:
                with contextlib.suppress(ValueError):
                    self.loads[worker_id] = LoadRecord.from_json(raw)

    def _take_news(self, fields: dict[bytes, bytes]) -> None:
        if fields.get(b"what") == b"down":
            worker_id, epoch = fields.get(b"worker_id", b""), fields.get(b"epoch", b"")
            self._farewells.add((worker_id.decode(), epoch.decode()))
        self._wake.set()


def _call(callback: OnWorker | None, record: WorkerRecord) -> None:
    if callback is None:
        return
    try:
        callback(record)
    except (
        Exception
    ):  # a gateway's mistake about one worker must not end its knowledge of the others
        log.exception("a callback failed", worker_id=record.worker_id)
