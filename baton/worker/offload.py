"""Offers completed blocks to kvstore, in the background and only as fast as it takes them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from baton.blocks import BlockKey
from baton.engine.engine import Engine
from baton.engine.types import BlockEventKind, StepOutput
from baton.rpc import logs
from baton.rpc.metrics import counter
from baton.transfer.kvstore import KvStoreClient
from baton.worker.host import EngineHost

log = logs.get_logger(__name__)

MAX_WAITING = 8_192
BATCH_BLOCKS = 32
"""Blocks pinned at once: few enough that an arena under pressure hardly feels them."""

_offered = counter("kvstore_offered_blocks_total", "Blocks offered to kvstore.", ("outcome",))


class Offloader:
    """Writes blocks through to kvstore as they are completed; drops the oldest when behind."""

    def __init__(self, host: EngineHost, client: KvStoreClient) -> None:
        self._host = host
        self._client = client
        self._waiting: OrderedDict[BlockKey, None] = OrderedDict()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        host.subscribe(self._deliver)

    async def start(self) -> None:
        """Starts offering."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stops; what waits is not offered."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._client.close()

    def _deliver(self, output: StepOutput) -> None:
        for event in output.block_events:
            if event.kind is BlockEventKind.STORED:
                self._waiting.update(dict.fromkeys(event.keys))
            elif event.kind is BlockEventKind.REMOVED:
                for key in event.keys:
                    self._waiting.pop(key, None)
            else:
                self._waiting.clear()
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            _offered.labels("dropped").inc()
        if self._waiting:
            self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch = list(self._waiting)[:BATCH_BLOCKS]
            for key in batch:
                del self._waiting[key]
            if not self._waiting:
                self._wake.clear()
            try:
                await self._offer(batch)
            except Exception:
                log.exception("offering blocks failed")

    async def _offer(self, keys: list[BlockKey]) -> None:
        missing = await self._client.find_missing(keys)
        if not missing:
            # They are held, or nobody answers: the client has counted and logged that.
            _offered.labels("not wanted").inc(len(keys))
            return
        pinned = await self._host.call(Engine.pin, missing)
        try:
            arena = self._host.engine.arena
            blocks = [(key, arena.read(block_id)) for key, block_id in pinned]
        finally:
            self._host.post(Engine.unpin, [key for key, _ in pinned])
        stored = await self._client.put(blocks, self._host.engine.layout.namespace)
        _offered.labels("stored").inc(stored)
        _offered.labels("refused").inc(len(blocks) - stored)
