"""WorkerService of a kvstore: what it is, and which blocks it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from baton.v1 import types_pb2, worker_pb2_grpc
from baton.v1 import worker_pb2 as pb
from services.kvstore.directory import Directory
from services.kvstore.tiers import Tiers

KEYS_PER_MESSAGE = 16_384
"""256 KB of keys: far below a message's limit."""


class FactsService(worker_pb2_grpc.WorkerServiceServicer):
    """Answers gateways that lost track of the store's events."""

    def __init__(self, tiers: Tiers, directory: Directory) -> None:
        self._tiers = tiers
        self._directory = directory

    async def GetWorker(self, request: pb.GetWorkerRequest, context: Any) -> pb.GetWorkerResponse:
        """Says what the store is."""
        record = self._directory.record
        return pb.GetWorkerResponse(
            worker_id=record.worker_id,
            epoch=record.epoch,
            role=types_pb2.WORKER_ROLE_KVSTORE,
        )

    async def SnapshotBlocks(
        self, request: pb.SnapshotBlocksRequest, context: Any
    ) -> AsyncIterator[pb.SnapshotBlocksResponse]:
        """Streams the keys of all blocks, whichever tier holds them; a few may come twice."""
        # No await between the two: the keys are those behind exactly this event.
        event_seq, keys = self._directory.event_seq, self._tiers.keys()
        for start in range(0, max(1, len(keys)), KEYS_PER_MESSAGE):
            part = b"".join(keys[start : start + KEYS_PER_MESSAGE])
            yield pb.SnapshotBlocksResponse(
                epoch=self._directory.record.epoch, event_seq=event_seq, keys=part
            )
