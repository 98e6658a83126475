"""Brings blocks from kvstore into a sequence's reserved blocks, where that beats computing."""

from __future__ import annotations

import time
from typing import Protocol

from baton.blocks import KvLayout
from baton.engine.types import Reserved
from baton.policy.fetch import FetchModel
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.receive import TargetArena


class FetchTarget(Protocol):
    """The part of an engine that fetching touches."""

    layout: KvLayout
    arena: TargetArena


class BlockFetcher:
    """Fetches a reservation's missing blocks. Without a kvstore it is off and fetches nothing."""

    def __init__(
        self, target: FetchTarget, client: KvStoreClient | None, model: FetchModel
    ) -> None:
        self._target = target
        self._client = client
        self._model = model

    @property
    def is_on(self) -> bool:
        """Whether sequences should be reserved before they run, to look for their blocks."""
        return self._client is not None

    async def fetch(self, reserved: Reserved, num_known: int) -> int:
        """Fetches the longest run of missing full blocks; returns how many tokens they hold.

        At least the last known token stays to be computed: its logits are wanted.
        """
        layout = self._target.layout
        first = reserved.num_cached_tokens // layout.block_size
        stop = (num_known - 1) // layout.block_size
        if self._client is None or not self._model.is_worth(stop - first, layout):
            return 0

        def write(index: int, data: bytes | memoryview) -> None:
            self._target.arena.write(reserved.block_ids[first + index], data)

        began = time.monotonic()
        keys = list(reserved.block_keys[first:stop])
        num_blocks = await self._client.get(keys, layout.namespace, layout.block_bytes, write)
        self._model.observe_fetch(num_blocks * layout.block_bytes, time.monotonic() - began)
        return num_blocks * layout.block_size
