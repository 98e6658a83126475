"""A directory without Redis: asks workers at fixed addresses, again and again."""

from __future__ import annotations

import asyncio
import time

from baton.errors import BatonError
from baton.policy.index import BlockIndex
from baton.registry.filling import fill
from baton.registry.loads import Loads
from baton.registry.records import WorkerRecord
from baton.rpc import logs
from services.gateway.fleet import OnWorker
from services.gateway.snapshots import WorkerDesk

log = logs.get_logger(__name__)

ASK_EVERY_SECONDS = 1.0
FIRST_LOOK_SECONDS = 2.0
MAX_MISSES = 3
"""A worker that has not answered this often in a row is gone."""


class StaticDirectory:
    """Workers at fixed addresses. Its index is as old as the last question: a hint, as always."""

    def __init__(
        self, addresses: tuple[str, ...], desk: WorkerDesk, on_up: OnWorker, on_down: OnWorker
    ) -> None:
        self.workers: dict[str, WorkerRecord] = {}
        self.version = 0
        self.loads = Loads()
        self.index = BlockIndex()
        self._addresses = addresses
        self._desk = desk
        self._on_up = on_up
        self._on_down = on_down
        self._answered_at = dict.fromkeys(addresses, time.monotonic())
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def staleness_s(self) -> float:
        """Age of the oldest answer."""
        return time.monotonic() - min(self._answered_at.values(), default=time.monotonic())

    async def start(self) -> None:
        """Asks everyone once, then keeps asking in the background."""
        looks = [asyncio.create_task(self._look(address, None)) for address in self._addresses]
        if looks:
            await asyncio.wait(looks, timeout=FIRST_LOOK_SECONDS)
        for look in looks:
            look.cancel()
        self._tasks = [asyncio.create_task(self._follow(address)) for address in self._addresses]

    async def stop(self) -> None:
        """Stops asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, address: str) -> None:
        num_misses = 0
        while True:
            known = next((w for w in self.workers.values() if w.address == address), None)
            try:
                await self._look(address, known)
                num_misses = 0
            except BatonError as error:
                num_misses += 1
                if num_misses == 1:
                    log.warning("a worker does not answer", address=address, reason=error.message)
                if known is not None and num_misses == MAX_MISSES:
                    self._remove(known)
            except Exception:
                log.exception("a worker's answer makes no sense", address=address)
            await asyncio.sleep(ASK_EVERY_SECONDS)

    async def _look(self, address: str, known: WorkerRecord | None) -> None:
        record, load = await self._desk.describe(address)
        self._answered_at[address] = time.monotonic()
        if known is not None and known != record:
            self._remove(known)
        if record.worker_id not in self.workers:
            self.workers[record.worker_id] = record
            self.version += 1
            self._on_up(record)
        if load != self.loads.get(record.worker_id):
            # Caches change while a worker works; an idle one keeps what it has.
            await fill(self.index, record, self._desk.snapshot(record))
            self.loads[record.worker_id] = load

    def _remove(self, record: WorkerRecord) -> None:
        if self.workers.pop(record.worker_id, None) is not None:
            self.version += 1
            self.loads.pop(record.worker_id, None)
            self.index.clear(record.worker_id)
            self._on_down(record)
