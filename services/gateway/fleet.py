"""The workers as this gateway sees them: records of all, a link to each decode worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from baton.registry.records import WorkerRecord
from baton.request import Role
from baton.rpc import logs
from baton.rpc.channels import TlsFiles
from services.gateway import metrics
from services.gateway.links import DecodeLink, LinkEnd

log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DecodeWorker:
    """A decode worker that takes submissions now."""

    record: WorkerRecord
    link: DecodeLink


class Fleet:
    """Takes news of workers (`on_up`, `on_down`), keeps links, and tells who can take a request."""

    def __init__(self, gateway_id: str, tls: TlsFiles | None = None) -> None:
        self._gateway_id = gateway_id
        self._tls = tls
        self._records: dict[str, WorkerRecord] = {}
        self._links: dict[str, DecodeLink] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @property
    def records(self) -> Iterable[WorkerRecord]:
        """All live workers."""
        return self._records.values()

    def on_up(self, record: WorkerRecord) -> None:
        """A worker has come, or its record has changed."""
        before = self._records.get(record.worker_id)
        self._records[record.worker_id] = record
        if record.role is Role.DECODE:
            self._link(record, is_restarted=before is None or before.epoch != record.epoch)
        log.info(
            "worker is up",
            worker_id=record.worker_id,
            role=record.role.name,
            address=record.address,
            model=record.model,
            is_draining=record.is_draining,
        )
        self._notify()

    def on_down(self, worker_id: str) -> None:
        """A worker has left. What it still runs may end on its stream; nothing new goes there."""
        record = self._records.pop(worker_id, None)
        if record is None:
            return
        link = self._links.get(worker_id)
        if link is not None:
            link.retire()
        log.info("worker is down", worker_id=worker_id, role=record.role.name)
        self._notify()

    def decode_workers(self, model: str) -> list[DecodeWorker]:
        """Decode workers of a model whose stream is up and that want new work, by id."""
        workers = [
            DecodeWorker(record, self._links[record.worker_id])
            for record in self._of(model, Role.DECODE)
            if record.worker_id in self._links
        ]
        return [worker for worker in workers if worker.link.is_usable]

    def prefill_workers(self, model: str) -> list[WorkerRecord]:
        """Prefill workers of a model, by id."""
        return self._of(model, Role.PREFILL)

    async def changed(self, seconds: float) -> None:
        """Returns at the next change of workers or links, or when the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def close(self) -> None:
        """Ends all links."""
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close() for link in links), *self._closing)

    def _of(self, model: str, role: Role) -> list[WorkerRecord]:
        found = [
            record
            for record in self._records.values()
            if record.role is role and record.model == model and not record.is_draining
        ]
        return sorted(found, key=lambda record: record.worker_id)

    def _link(self, record: WorkerRecord, *, is_restarted: bool) -> None:
        link = self._links.get(record.worker_id)
        if link is not None and link.address == record.address and link.revive():
            if is_restarted:
                link.hurry()
            return
        if link is not None:
            self._close_later(link)
        end = LinkEnd(record.worker_id, record.address, self._gateway_id, self._tls)
        self._links[record.worker_id] = DecodeLink(end, self._on_link_change)

    def _on_link_change(self, link: DecodeLink) -> None:
        metrics.link_up.labels(link.worker_id).set(link.is_up)
        if link.is_closed and self._links.get(link.worker_id) is link:
            del self._links[link.worker_id]
            metrics.link_up.remove(link.worker_id)
        self._notify()

    def _close_later(self, link: DecodeLink) -> None:
        task = asyncio.create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
