"""Asks workers what they are and what they cache, off the path of requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc

from baton import convert
from baton.errors import WorkerLost
from baton.registry.records import LoadRecord, SnapshotPart, WorkerRecord
from baton.request import Role
from baton.rpc.channels import TlsFiles, open_channel
from baton.rpc.status import from_rpc_error
from baton.v1 import worker_pb2 as pb
from baton.v1 import worker_pb2_grpc as stubs

ANSWER_SECONDS = 5.0


class WorkerDesk:
    """Questions to any worker. Rare ones: a channel lives as long as its question."""

    def __init__(self, tls: TlsFiles | None = None) -> None:
        self._tls = tls

    async def describe(self, address: str) -> tuple[WorkerRecord, LoadRecord]:
        """What a worker is and how busy it is. Raises a `BatonError`."""
        async with open_channel(address, self._tls) as channel:
            stub = stubs.WorkerServiceStub(channel)
            try:
                answer = await stub.GetWorker(pb.GetWorkerRequest(), timeout=ANSWER_SECONDS)
            except grpc.aio.AioRpcError as failure:
                raise from_rpc_error(failure) from failure
        return _record(answer, address), _load(answer)

    async def snapshot(self, record: WorkerRecord) -> AsyncGenerator[SnapshotPart, None]:
        """All blocks that a worker caches, as they arrive. Raises a `BatonError`."""
        is_empty = True
        async with open_channel(record.address, self._tls) as channel:
            stub = stubs.WorkerServiceStub(channel)
            try:
                request = pb.SnapshotBlocksRequest()
                # No deadline: a million blocks may take a while; who reads limits each part's wait.
                async for part in stub.SnapshotBlocks(request):
                    is_empty = False
                    yield SnapshotPart(part.epoch, part.event_seq, part.keys)
            except grpc.aio.AioRpcError as failure:
                raise from_rpc_error(failure) from failure
        if is_empty:
            raise WorkerLost(f"worker {record.worker_id} sent an empty snapshot")


def _record(answer: pb.GetWorkerResponse, address: str) -> WorkerRecord:
    return WorkerRecord(
        worker_id=answer.worker_id,
        role=Role(answer.role),
        address=address,
        epoch=answer.epoch,
        model=answer.model,
        layout=convert.layout_from_pb(answer.layout),
        num_blocks=answer.block_count,
        context_len=answer.context_len,
    )


def _load(answer: pb.GetWorkerResponse) -> LoadRecord:
    return LoadRecord(
        num_running=answer.sequence_count,
        num_used_blocks=answer.block_count - answer.free_block_count,
        num_blocks=answer.block_count,
    )
