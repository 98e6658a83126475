"""Tells Redis that this kvstore lives and which blocks it holds: hints that nobody waits for."""

from __future__ import annotations

import secrets
import time

from baton.blocks import BlockKey
from baton.registry.announcer import Announcer
from baton.registry.records import BlockRecord, WorkerRecord
from baton.request import Role
from services.kvstore.settings import Settings

_SHARES_OF_LIFE = 4
"""A record of a block that is read is renewed when a quarter of its life is over."""


class Directory:
    """This node in Redis: its worker record and one record a block, up to a limit. Listens to the
    tiers."""

    def __init__(
        self, settings: Settings, worker_id: str, address: str, metrics_address: str
    ) -> None:
        record = WorkerRecord(
            worker_id,
            Role.KVSTORE,
            address,
            epoch=secrets.token_hex(8),
            metrics_address=metrics_address,
        )
        self._worker_id = worker_id
        self._announcer = Announcer(settings.redis_url, record)
        self._renew_after_s = self._announcer.timing.block_record_ttl_s / _SHARES_OF_LIFE
        self._max_records = settings.max_block_records
        self._told_at: dict[BlockKey, float] = {}

    async def announce(self) -> None:
        """Tells that the node serves; returns whether Redis answered or not."""
        await self._announcer.start()

    async def drain(self) -> None:
        """Tells that the node is about to leave."""
        self._announcer.update_record(is_draining=True)

    async def stop(self) -> None:
        """Takes the node's record back. Block records that stay name a node that is gone."""
        await self._announcer.stop()

    def note_held(self, key: BlockKey, tier: str, size_bytes: int, checksum: int) -> None:
        """See `Listener`."""
        if key not in self._told_at and len(self._told_at) >= self._max_records:
            return
        self._told_at[key] = time.monotonic()
        record = BlockRecord(key, self._worker_id, tier, size_bytes, checksum)
        self._announcer.publish_block_records([record])

    def note_read(self, key: BlockKey, tier: str, size_bytes: int, checksum: int) -> None:
        """See `Listener`."""
        told_at = self._told_at.get(key)
        if told_at is None or time.monotonic() - told_at > self._renew_after_s:
            self.note_held(key, tier, size_bytes, checksum)

    def note_gone(self, key: BlockKey) -> None:
        """See `Listener`."""
        if self._told_at.pop(key, None) is not None:
            self._announcer.publish_block_records((), [key])
