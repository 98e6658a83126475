"""The kvstore's RPCs: check, convert, call, convert back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from baton.blocks import BlockKey
from baton.errors import DeadlineExceeded, Overloaded
from baton.transfer.shm import SharedSegment
from baton.v1 import kvstore_pb2 as pb
from baton.v1 import kvstore_pb2_grpc
from services.kvstore import limits, metrics
from services.kvstore.leases import Leases
from services.kvstore.shared import Sources
from services.kvstore.store import StoredBlock
from services.kvstore.tiers import Tiers, Wanted
from services.kvstore.upload import Upload

GET_BLOCKS = 16
"""Pinned at a time by a Get; the next ones are read from disk meanwhile."""
COPY_STEP_BYTES = 4 << 20
"""Copied before other calls have their turn: about half a millisecond."""


class KvStoreService(kvstore_pb2_grpc.KvStoreServiceServicer):
    """Serves one store. Cancelled calls leave nothing behind."""

    def __init__(self, tiers: Tiers, segment: SharedSegment | None = None) -> None:
        """`segment`: where the store's memory lies, if others may map it."""
        self._tiers = tiers
        self._store = tiers.store
        self._segment = segment
        self._sources = Sources()
        self._puts = _Slots("Put", limits.MAX_PUTS)
        self._gets = _Slots("Get", limits.MAX_GETS)
        self.leases = Leases(limits.LEASE_S, self._store.unpin)

    async def FindMissing(self, request: Any, context: Any) -> Any:
        """Says which of the keys are not held."""
        keys = limits.check_keys(request.keys)
        return pb.FindMissingResponse(missing=self._tiers.find_missing(keys))

    async def Put(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """Stores blocks."""
        async with self._puts.one():
            with Upload(self._store) as upload:
                async for piece in requests:
                    upload.add(piece)
                    metrics.moved_bytes.labels("in", "stream").inc(len(piece.data))
                upload.finish()
        return pb.PutResponse(
            stored_count=upload.num_stored,
            present_count=upload.num_present,
            refused_count=upload.num_refused,
        )

    async def PutShared(self, request: Any, context: Any) -> Any:
        """Stores blocks that lie in the caller's memory."""
        blocks = limits.check_shared_put(request)
        async with self._puts.one():
            memory = self._sources.memory(request.memory)
            size = request.size_bytes
            with Upload(self._store) as upload:
                copied = 0
                for block in blocks:
                    offer = upload.offer(
                        block.key, request.namespace, size, block.parent, request.tenant
                    )
                    source = memory[block.offset : block.offset + size]
                    upload.copy(offer, source, block.checksum)
                    copied += size
                    if copied >= COPY_STEP_BYTES:
                        copied = 0
                        await asyncio.sleep(0)
        metrics.moved_bytes.labels("in", "memory").inc(len(blocks) * size)
        return pb.PutSharedResponse(
            stored_count=upload.num_stored,
            present_count=upload.num_present,
            refused_count=upload.num_refused,
        )

    async def Get(self, request: Any, context: Any) -> None:
        """Streams the longest run of held blocks from the first key on."""
        keys = limits.check_keys(request.keys)
        namespace = limits.check_namespace(request.namespace)
        async with self._gets.one():
            self._note_asked(keys, namespace)
            index = 0
            while index < len(keys):
                wanted = self._wanted(keys[index:], namespace, GET_BLOCKS)
                blocks = await self._tiers.run(wanted)
                try:
                    self._tiers.read_ahead(keys[index + len(blocks) :], namespace)
                    if not await self._write_all(context, index, blocks):
                        return
                finally:
                    self._tiers.unpin(blocks)
                index += len(blocks)
                if not blocks or not self._has_more(keys, index, namespace):
                    return

    async def Attach(self, request: Any, context: Any) -> Any:
        """Names the memory that blocks lie in."""
        segment = self._segment
        if segment is None:
            return pb.AttachResponse()
        memory = pb.SharedMemory(
            name=segment.name, nonce=segment.nonce, size_bytes=segment.num_bytes
        )
        return pb.AttachResponse(memory=memory)

    async def Lease(self, request: Any, context: Any) -> Any:
        """Pins the longest run of held blocks and says where they lie."""
        keys = limits.check_keys(request.keys)
        namespace = limits.check_namespace(request.namespace)
        began = time.monotonic()
        self.leases.release(request.released_lease_ids)
        self.leases.expire(began)
        async with self._gets.one():
            if not request.is_continued:
                self._note_asked(keys, namespace)
            most = min(request.max_count or limits.MAX_LEASED_BLOCKS, limits.MAX_LEASED_BLOCKS)
            blocks = await self._tiers.run(self._wanted(keys, namespace, most))
        self._tiers.read_ahead(keys[len(blocks) :], namespace)
        # Its life is told from the arrival of the request, and begins no later.
        lease_id = self.leases.grant(blocks, time.monotonic())
        if lease_id:
            loop = asyncio.get_running_loop()
            loop.call_later(limits.LEASE_S, lambda: self.leases.expire(time.monotonic()))
        size = blocks[0].offer.size_bytes if blocks else 0
        metrics.moved_bytes.labels("out", "memory").inc(len(blocks) * size)
        return pb.LeaseResponse(
            lease_id=lease_id,
            lease_ms=int(limits.LEASE_S * 1000),
            size_bytes=size,
            offsets=[block.offset for block in blocks],
            checksums=[block.checksum for block in blocks],
            has_more=self._has_more(keys, len(blocks), namespace),
        )

    async def Release(self, request: Any, context: Any) -> Any:
        """Ends leases, and looks again at blocks that a reader found corrupt."""
        for key in limits.check_keys(request.corrupt_keys):
            self._store.verify(key)
        self.leases.release(request.lease_ids)
        return pb.ReleaseResponse()

    async def GetStats(self, request: Any, context: Any) -> Any:
        """Returns capacity and use."""
        stats, disk = self._store.stats, self._tiers.disk
        answer = pb.GetStatsResponse(
            block_count=len(self._store),
            used_bytes=self._store.used_bytes,
            capacity_bytes=self._store.capacity_bytes,
            hit_count=stats.num_hits,
            miss_count=stats.num_misses,
            evicted_count=stats.num_evicted,
            unwanted_count=stats.num_unwanted,
            leased_count=self.leases.num_blocks,
        )
        if disk is not None:
            answer.disk_block_count = len(disk)
            answer.disk_used_bytes = disk.used_bytes
            answer.disk_capacity_bytes = disk.capacity_bytes
            answer.disk_hit_count = disk.stats.num_hits
            answer.disk_write_count = disk.stats.num_written
        return answer

    async def close(self) -> None:
        """Lets go of other processes' memory."""
        self._sources.close()

    def _has_more(self, keys: Sequence[BlockKey], index: int, namespace: str) -> bool:
        return index < len(keys) and self._tiers.holds(keys[index], namespace)

    def _note_asked(self, keys: Sequence[BlockKey], namespace: str) -> None:
        self._tiers.note_uses(keys)
        self._tiers.note_misses(keys, namespace)

    def _wanted(self, keys: Sequence[BlockKey], namespace: str, most: int) -> Wanted:
        pinnable = limits.MAX_LEASED_SHARE * self._store.capacity_bytes
        return Wanted(keys, namespace, most, max(0, int(pinnable) - self.leases.num_bytes))

    async def _write_all(self, context: Any, first: int, blocks: Sequence[StoredBlock]) -> bool:
        """Streams blocks; False: one was no longer intact and ends the run."""
        for index, block in enumerate(blocks, first):
            if not self._store.verify(block.offer.key):
                return False
            await self._write(context, index, block)
            metrics.moved_bytes.labels("out", "stream").inc(block.offer.size_bytes)
        return True

    async def _write(self, context: Any, index: int, block: StoredBlock) -> None:
        view, size = self._store.view(block), block.offer.size_bytes
        for offset in range(0, size, limits.MAX_PIECE_BYTES):
            end = min(size, offset + limits.MAX_PIECE_BYTES)
            piece = pb.GetResponse(
                index=index,
                offset_bytes=offset,
                data=bytes(view[offset:end]),
                checksum=block.checksum if end == size else 0,
            )
            await context.write(piece)


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
