"""The kvstore's RPCs: check, convert, call, convert back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from baton.errors import DeadlineExceeded, Overloaded
from baton.v1 import kvstore_pb2 as pb
from baton.v1 import kvstore_pb2_grpc
from services.kvstore import limits, metrics
from services.kvstore.store import BlockStore, StoredBlock
from services.kvstore.upload import Upload


class KvStoreService(kvstore_pb2_grpc.KvStoreServiceServicer):
    """Serves one store. Cancelled calls leave nothing behind."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._puts = _Slots("Put", limits.MAX_PUTS)
        self._gets = _Slots("Get", limits.MAX_GETS)

    async def FindMissing(self, request: Any, context: Any) -> Any:
        """Says which of the keys are not held."""
        keys = limits.check_keys(request.keys)
        return pb.FindMissingResponse(missing=self._store.find_missing(keys))

    async def Put(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """Stores blocks."""
        async with self._puts.one():
            with Upload(self._store) as upload:
                async for piece in requests:
                    upload.add(piece)
                    metrics.moved_bytes.labels("in").inc(len(piece.data))
                upload.finish()
        return pb.PutResponse(
            stored_count=upload.num_stored,
            present_count=upload.num_present,
            refused_count=upload.num_refused,
        )

    async def Get(self, request: Any, context: Any) -> None:
        """Streams the longest run of held blocks from the first key on."""
        keys = limits.check_keys(request.keys)
        namespace = limits.check_namespace(request.namespace)
        async with self._gets.one():
            use = self._store.new_use()
            self._store.note_misses(keys, namespace)
            for index, key in enumerate(keys):
                block = self._store.read(key, namespace)
                if block is None:
                    break
                self._store.touch(key, use, index)
                await _write(context, index, block)
                metrics.moved_bytes.labels("out").inc(len(block.data))

    async def GetStats(self, request: Any, context: Any) -> Any:
        """Returns capacity and use."""
        stats = self._store.stats
        return pb.GetStatsResponse(
            block_count=len(self._store),
            used_bytes=self._store.used_bytes,
            capacity_bytes=self._store.capacity_bytes,
            hit_count=stats.num_hits,
            miss_count=stats.num_misses,
            evicted_count=stats.num_evicted,
        )


class _Slots:
    """Bounds how many calls of a kind run at a time, and how long each may take."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._num_taken = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """The time of one call. Raises Overloaded at once when all slots are taken."""
        if self._num_taken >= self._limit:
            raise Overloaded(
                f"{self._num_taken} {self._name} calls run; the limit is {self._limit}",
                retry_after_s=1.0,
            )
        self._num_taken += 1
        try:
            async with asyncio.timeout(limits.MAX_CALL_S):
                yield
        except TimeoutError:
            message = f"{self._name} ran for {limits.MAX_CALL_S:g} s, the longest it may"
            raise DeadlineExceeded(message) from None
        finally:
            self._num_taken -= 1


async def _write(context: Any, index: int, block: StoredBlock) -> None:
    size = len(block.data)
    if isinstance(block.data, bytes) and size <= limits.MAX_PIECE_BYTES:
        await context.write(pb.GetResponse(index=index, data=block.data, checksum=block.checksum))
        return
    view = memoryview(block.data)
    for offset in range(0, size, limits.MAX_PIECE_BYTES):
        end = min(size, offset + limits.MAX_PIECE_BYTES)
        piece = pb.GetResponse(
            index=index,
            offset_bytes=offset,
            data=bytes(view[offset:end]),
            checksum=block.checksum if end == size else 0,
        )
        await context.write(piece)
