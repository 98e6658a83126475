"""Tells Redis that this kvstore lives and which blocks it holds: hints that nobody waits for."""

from __future__ import annotations

import secrets
import time

from baton.blocks import BlockKey
from baton.registry.announcer import Announcer
from baton.registry.records import BlockRecord, WorkerRecord
from baton.request import Role
from services.kvstore.store import StoredBlock

TIER = "dram"
_SHARES_OF_LIFE = 4
"""A record of a block that is read is renewed when a quarter of its life is over."""


class Directory:
    """This node in Redis: its worker record and one record a block. Observes the store."""

    def __init__(self, redis_url: str, worker_id: str, address: str, metrics_address: str) -> None:
        record = WorkerRecord(
            worker_id,
            Role.KVSTORE,
            address,
            epoch=secrets.token_hex(8),
            metrics_address=metrics_address,
        )
        self._worker_id = worker_id
        self._announcer = Announcer(redis_url, record)
        self._renew_after_s = self._announcer.timing.block_record_ttl_s / _SHARES_OF_LIFE
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

    def note_stored(self, key: BlockKey, block: StoredBlock) -> None:
        """See `Observer`."""
        self._told_at[key] = time.monotonic()
        record = BlockRecord(key, self._worker_id, TIER, len(block.data), block.checksum)
        self._announcer.publish_block_records([record])

    def note_read(self, key: BlockKey, block: StoredBlock) -> None:
        """See `Observer`."""
        if time.monotonic() - self._told_at[key] > self._renew_after_s:
            self.note_stored(key, block)

    def note_removed(self, key: BlockKey) -> None:
        """See `Observer`."""
        del self._told_at[key]
        self._announcer.publish_block_records((), [key])
