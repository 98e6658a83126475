"""Tells Redis that this kvstore lives and which blocks it holds: hints that nobody waits for."""

from __future__ import annotations

import secrets

from baton.blocks import BlockKey
from baton.registry.announcer import Announcer
from baton.registry.records import WorkerRecord
from baton.request import Role
from services.kvstore.settings import Settings


class Directory:
    """This store in Redis: its record, and the events of its blocks. Listens to the tiers."""

    def __init__(
        self, settings: Settings, worker_id: str, address: str, metrics_address: str
    ) -> None:
        self.record = WorkerRecord(
            worker_id,
            Role.KVSTORE,
            address,
            epoch=secrets.token_hex(8),
            metrics_address=metrics_address,
        )
        self._announcer = Announcer(settings.redis_url, self.record)

    @property
    def event_seq(self) -> int:
        """Number of the last event announced."""
        return self._announcer.event_seq

    async def announce(self) -> None:
        """Tells that the store serves; returns whether Redis answered or not."""
        await self._announcer.start()

    async def drain(self) -> None:
        """Tells that the store is about to leave."""
        self._announcer.update_record(is_draining=True)

    async def stop(self) -> None:
        """Takes the store's record back, and what is known of its blocks with it."""
        await self._announcer.stop()

    def note_held(self, key: BlockKey) -> None:
        """See `Listener`."""
        self._announcer.publish_stored((key,))

    def note_gone(self, key: BlockKey) -> None:
        """See `Listener`."""
        self._announcer.publish_removed((key,))
