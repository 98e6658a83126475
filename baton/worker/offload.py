"""Offers completed blocks to kvstore, in the background and only as fast as it takes them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import cached_property

from baton.blocks import BlockKey, tenant_of
from baton.engine.engine import Engine
from baton.engine.types import BlockEvent, BlockEventKind, StepOutput
from baton.policy.rendezvous import GROUP_BLOCKS
from baton.rpc import logs
from baton.rpc.metrics import counter
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.kvstore_memory import OfferedBlock
from baton.worker.host import EngineHost

log = logs.get_logger(__name__)

MAX_WAITING = 8_192
BATCH_BLOCKS = 32
"""Blocks pinned at once: few enough that an arena under pressure hardly feels them."""

_offered = counter("kvstore_offered_blocks_total", "Blocks offered to kvstore.", ("outcome",))


class _Run:
    """Blocks that follow each other in a chain, as they were announced: one object for many."""

    def __init__(self, event: BlockEvent, before: _Run | None) -> None:
        """`before`: the run of the parent, if it is known."""
        self.keys = event.keys
        self.tenant: str = tenant_of(event.salt) if before is None else before.tenant
        self._parent = event.parent
        self._depth = 0
        self._head_group: BlockKey | None = None
        if before is not None and event.parent is not None:
            self._depth = before.depth(event.parent) + 1
            if self._depth % GROUP_BLOCKS:
                self._head_group = before.group(event.parent)

    @cached_property
    def _places(self) -> dict[BlockKey, int]:
        return {key: place for place, key in enumerate(self.keys)}

    def depth(self, key: BlockKey) -> int:
        """How many blocks of its chain come before this one, as far as is known."""
        return self._depth + self._places[key]

    def parent(self, key: BlockKey) -> BlockKey | None:
        """The block before this one."""
        place = self._places[key]
        return self.keys[place - 1] if place else self._parent

    def group(self, key: BlockKey) -> BlockKey:
        """The group of this block."""
        depth = self.depth(key)
        place = depth - depth % GROUP_BLOCKS - self._depth
        if place < 0 and self._head_group is not None:
            return self._head_group
        return self.keys[max(0, place)]


class Offloader:
    """Writes blocks through to kvstore as they are completed; drops the oldest when behind."""

    def __init__(self, host: EngineHost, client: KvStoreClient) -> None:
        self._host = host
        self._client = client
        self._waiting: OrderedDict[BlockKey, None] = OrderedDict()
        self._runs: dict[BlockKey, _Run] = {}
        """Of all blocks the engine caches."""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        host.subscribe(self._deliver, is_late=True)

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
                before = self._runs.get(event.parent) if event.parent is not None else None
                run = _Run(event, before)
                self._waiting.update(dict.fromkeys(event.keys))
                self._runs.update(dict.fromkeys(event.keys, run))
            elif event.kind is BlockEventKind.REMOVED:
                for key in event.keys:
                    self._waiting.pop(key, None)
                    self._runs.pop(key, None)
            else:
                self._waiting.clear()
                self._runs.clear()
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
        runs = {key: self._runs[key] for key in keys if key in self._runs}
        groups = [run.group(key) for key, run in runs.items()]
        missing = await self._client.find_missing(list(runs), groups)
        if not missing:
            # They are held, or nobody answers: the client has counted and logged that.
            _offered.labels("not wanted").inc(len(keys))
            return
        pinned = await self._host.call(Engine.pin, missing)
        try:
            blocks = [self._block(key, block_id, runs[key]) for key, block_id in pinned]
            stored = await self._client.put(blocks, self._host.engine.layout.namespace)
        finally:
            self._host.post(Engine.unpin, [key for key, _ in pinned])
        _offered.labels("stored").inc(stored)
        _offered.labels("refused").inc(len(blocks) - stored)

    def _block(self, key: BlockKey, block_id: int, run: _Run) -> OfferedBlock:
        arena = self._host.engine.arena
        try:
            data: bytes | memoryview = arena.block_bytes_view(block_id)
        except ValueError:  # not in host memory
            data = arena.read(block_id)
        return OfferedBlock(key, data, run.parent(key), run.group(key), run.tenant)
