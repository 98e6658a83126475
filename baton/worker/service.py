"""WorkerService: what a worker is, and which blocks it caches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from baton import convert
from baton.blocks import KEY_BYTES
from baton.engine.engine import Engine
from baton.v1 import worker_pb2 as pb
from baton.v1 import worker_pb2_grpc
from baton.worker.announce import Announcement
from baton.worker.host import EngineHost
from baton.worker.identity import Identity

KEYS_PER_MESSAGE = 16_384
"""256 KB of keys: far below a message's limit."""


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """Answers for one worker; never on the path of a request."""

    def __init__(self, me: Identity, host: EngineHost, announcement: Announcement) -> None:
        self._me = me
        self._host = host
        self._announcement = announcement

    async def GetWorker(self, request: pb.GetWorkerRequest, context: Any) -> pb.GetWorkerResponse:
        """Says what the worker is."""
        engine = self._host.engine
        num_free, num_sequences = await self._host.call(_sizes)
        return pb.GetWorkerResponse(
            worker_id=self._me.worker_id,
            epoch=self._me.epoch,
            role=convert.role_to_pb(self._me.role),
            model=self._me.model,
            context_len=engine.config.context_len,
            block_count=engine.config.num_blocks,
            free_block_count=num_free,
            sequence_count=num_sequences,
            layout=convert.layout_to_pb(engine.layout),
        )

    async def SnapshotBlocks(
        self, request: pb.SnapshotBlocksRequest, context: Any
    ) -> AsyncIterator[pb.SnapshotBlocksResponse]:
        """Streams the keys of all cached blocks."""
        # The number first: the snapshot may hold later events too; applying them twice is harmless.
        event_seq = self._announcement.event_seq
        keys = await self._host.call(Engine.cached_keys)
        joined = b"".join(keys)
        step = KEYS_PER_MESSAGE * KEY_BYTES
        for start in range(0, max(1, len(joined)), step):
            yield pb.SnapshotBlocksResponse(
                epoch=self._me.epoch, event_seq=event_seq, keys=joined[start : start + step]
            )


def _sizes(engine: Engine) -> tuple[int, int]:
    return engine.num_free_blocks, engine.num_sequences
