"""The workers as this gateway sees them: what is known of all, a link to each decode worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from baton.policy.index import BlockIndex
from baton.policy.predicted import PredictedCaches
from baton.registry.loads import Loads
from baton.registry.records import WorkerRecord
from baton.request import Role
from baton.rpc.channels import TlsFiles
from services.gateway import metrics
from services.gateway.links import DecodeLink, LinkEnd
from services.gateway.models import Models

OnWorker = Callable[[WorkerRecord], None]


class Directory(Protocol):
    """Who is there, how busy they are and what they cache; kept up to date in the background.

    Calls back on the event loop for each worker that comes or goes. Other changes of a record only
    show in `workers`.
    """

    workers: dict[str, WorkerRecord]
    version: int
    """Grows whenever `workers` changes."""
    loads: Loads
    index: BlockIndex

    @property
    def staleness_s(self) -> float:
        """How old the oldest of all this may be."""

    async def start(self) -> None:
        """Starts watching; returns after the first look."""

    async def stop(self) -> None:
        """Ends."""


OpenDirectory = Callable[[OnWorker, OnWorker], Directory]
"""Makes a directory that reports workers that come and go to these two."""


@dataclass(frozen=True, slots=True)
class DecodeWorker:
    """A decode worker that takes submissions now."""

    record: WorkerRecord
    link: DecodeLink


class Fleet:
    """Keeps a link to each live decode worker and tells who can take a request."""

    def __init__(
        self,
        gateway_id: str,
        models: Models,
        open_directory: OpenDirectory,
        tls: TlsFiles | None = None,
    ) -> None:
        self.models = models
        self.directory = open_directory(self._on_up, self._on_down)
        self.predicted = PredictedCaches(self.directory.index)
        self._gateway_id = gateway_id
        self._tls = tls
        self._links: dict[str, DecodeLink] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._seen: int | None = None
        """The directory's version that the two below are of; None: links have changed since."""
        self._usable: dict[str, dict[str, DecodeWorker]] = {}
        self._unreachable: Set[str] = frozenset()
        self._changed = asyncio.Event()

    @property
    def records(self) -> Iterable[WorkerRecord]:
        """All live workers."""
        return self.directory.workers.values()

    async def start(self) -> None:
        """Begins to look for workers."""
        metrics.registry_staleness.set_function(lambda: self.directory.staleness_s)
        metrics.stored_blocks.set_function(lambda: self.directory.index.num_stored)
        await self.directory.start()

    async def stop(self) -> None:
        """Ends all links and stops looking."""
        await self.directory.stop()
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close() for link in links), *self._closing)

    def decode_workers(self, model: str) -> Mapping[str, DecodeWorker]:
        """Decode workers of a model whose stream is up and that want new work, by id, in order.

        The same mapping again until something changes; nobody else changes it.
        """
        self._look()
        return self._usable.get(model, {})

    def unreachable(self) -> Set[str]:
        """Decode workers whose stream is down; nothing is known here of roads to the others."""
        self._look()
        return self._unreachable

    async def changed(self, seconds: float) -> None:
        """Returns at the next change of workers or links, or when the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def _look(self) -> None:
        """Sorts the workers anew if any has changed; at a glance if not."""
        if self.directory.version == self._seen:
            return
        self._seen, self._usable = self.directory.version, {}
        decodes = [record for record in self.records if record.role is Role.DECODE]
        for record in sorted(decodes, key=lambda record: record.worker_id):
            if self._is_usable(record.worker_id) and not record.is_draining:
                worker = DecodeWorker(record, self._links[record.worker_id])
                self._usable.setdefault(record.model, {})[record.worker_id] = worker
        ids = {record.worker_id for record in decodes}
        self._unreachable = frozenset(name for name in ids if not self._is_usable(name))

    def _on_up(self, record: WorkerRecord) -> None:
        self.models.note(record)
        if record.role is Role.DECODE:
            self._link(record)
        self._notify()

    def _on_down(self, record: WorkerRecord) -> None:
        self.predicted.forget(record.worker_id)
        # What the worker still runs may end on its stream; nothing new goes there.
        link = self._links.get(record.worker_id)
        if link is not None:
            link.retire()
        self._notify()

    def _is_usable(self, worker_id: str) -> bool:
        link = self._links.get(worker_id)
        return link is not None and link.is_usable

    def _link(self, record: WorkerRecord) -> None:
        link = self._links.get(record.worker_id)
        if link is not None and link.address == record.address and link.revive():
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
        self._seen = None
        self._changed.set()
        self._changed = asyncio.Event()
