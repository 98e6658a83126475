"""The calls to one kvstore, each under a deadline. Raises what goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import grpc

from baton.blocks import KEY_BYTES, BlockKey, checksum
from baton.errors import TransferFailed
from baton.policy.rendezvous import node_seed
from baton.rpc import logs
from baton.rpc.channels import TlsFiles, open_channel
from baton.transfer.breaker import Breaker
from baton.transfer.kvstore_memory import Offered, OfferedBlock, Outbox, map_store
from baton.transfer.shm import SharedSegment
from baton.v1 import kvstore_pb2 as pb
from baton.v1 import kvstore_pb2_grpc

PIECE_BYTES = 512 * 1024
"""Keeps a message under one megabyte; larger pieces measured slower and dearer."""

_log = logs.get_logger(__name__)
COPY_STEP_BYTES = 4 << 20
"""Copied before the event loop has its turn: about half a millisecond."""
MAX_SHARED_BLOCKS = 1024
"""Most blocks in a PutShared."""
LEASE_BLOCKS = 256
"""In one lease; those behind are read from the store's disk meanwhile."""
RELEASE_AFTER_S = 0.02
LEASE_MARGIN_S = 1.0
"""A lease is not used in its last second."""


class Receiver(Protocol):
    """Takes blocks that are read."""

    def write(self, at: int, data: bytes | memoryview) -> None:
        """Copies a block whose checksum is right, the `at`-th of those asked for."""

    def confirm(self, at: int) -> None:
        """What was copied was still the block."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that calls may take. A request waits for `get`, so a silent node must show soon."""

    find_s: float = 1.0
    put_s: float = 15.0
    get_s: float = 5.0
    stall_s: float = 1.0
    """Longest silence while reading."""


class KvStoreNode:
    """A connection to one kvstore. Blocks go through shared memory where both map the same."""

    def __init__(
        self, address: str, tls: TlsFiles | None, timeouts: Timeouts, outbox: Outbox | None = None
    ) -> None:
        """`outbox`: our shared memory; None: blocks go by stream."""
        self.address = address
        self.breaker = Breaker()
        self.seed = node_seed(address)
        self._timeouts = timeouts
        self._outbox = outbox
        self._memory: SharedSegment | None = None
        self._may_share = outbox is not None
        self._is_attached = not self._may_share
        self._done_leases: list[int] = []
        self._releasing: asyncio.Task[None] | None = None
        # Its own connection: blocks never stand before control frames of other calls.
        self._channel = open_channel(address, tls, has_own_connection=True)
        stub: Any = kvstore_pb2_grpc.KvStoreServiceStub
        self._stub = stub(self._channel)

    async def close(self) -> None:
        """Ends the connection and the calls on it."""
        if self._releasing is not None:
            await asyncio.wait([self._releasing])
        self.detach()
        await self._channel.close(None)

    def detach(self) -> None:
        """Forgets the store's memory: after a failure it may be another process's."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        self._is_attached = not self._may_share

    async def find_missing(self, keys: Sequence[BlockKey]) -> list[int]:
        """Indexes of the keys that are not held, ascending."""
        request = pb.FindMissingRequest(keys=b"".join(keys))
        answer = await self._stub.FindMissing(request, timeout=self._timeouts.find_s)
        return sorted(index for index in answer.missing if index < len(keys))

    async def put(self, blocks: Sequence[OfferedBlock], namespace: str) -> int:
        """Stores blocks, which stay as they are until then; returns how many are held now."""
        await self._attach()
        held = 0
        at = 0
        while at < len(blocks) and self._memory is not None and self._outbox is not None:
            async with self._outbox.lock:
                offered = self._outbox.offer(blocks[at : at + MAX_SHARED_BLOCKS])
                if offered is None:
                    break
                part = blocks[at : at + offered[1]]
                try:
                    held += await self._put_shared(part, namespace, offered[0])
                except grpc.aio.AioRpcError as failure:
                    if failure.code() is not grpc.StatusCode.DATA_LOSS:
                        raise
                    _log.warning("kvstore can't map our memory, falling back", node=self.address)
                    self._may_share = False
                    self.detach()
                    break
            at += len(part)
        return held + (await self._put_stream(blocks[at:], namespace) if at < len(blocks) else 0)

    async def get(
        self, keys: Sequence[BlockKey], namespace: str, block_bytes: int, receiver: Receiver
    ) -> None:
        """Delivers the leading held blocks, verified, in order. Raises `TransferFailed`."""
        await self._attach()
        if self._memory is None:
            await self._get_stream(keys, namespace, block_bytes, receiver)
        else:
            async with asyncio.timeout(self._timeouts.get_s):
                await self._get_mapped(self._memory, _Want(keys, namespace, block_bytes), receiver)

    async def _attach(self) -> None:
        if self._is_attached:
            return
        answer = await self._stub.Attach(pb.AttachRequest(), timeout=self._timeouts.find_s)
        if not self._is_attached:
            self._is_attached = True
            self._memory = map_store(answer)

    async def _put_stream(self, blocks: Sequence[OfferedBlock], namespace: str) -> int:
        answer = await self._stub.Put(_pieces(blocks, namespace), timeout=self._timeouts.put_s)
        return int(answer.stored_count + answer.present_count)

    async def _put_shared(
        self, blocks: Sequence[OfferedBlock], namespace: str, offered: Offered
    ) -> int:
        held = 0
        for tenant, group in groupby(
            zip(blocks, offered.offsets, strict=True), key=lambda pair: pair[0].tenant
        ):
            part = list(group)
            request = pb.PutSharedRequest(
                memory=offered.memory,
                namespace=namespace,
                size_bytes=len(part[0][0].data),
                keys=b"".join(block.key for block, _ in part),
                parents=b"".join(block.parent or bytes(KEY_BYTES) for block, _ in part),
                offsets=[offset for _, offset in part],
                checksums=[checksum(block.data) for block, _ in part],
                tenant=tenant,
            )
            answer = await self._stub.PutShared(request, timeout=self._timeouts.put_s)
            held += answer.stored_count + answer.present_count
        return held

    async def _get_stream(
        self, keys: Sequence[BlockKey], namespace: str, block_bytes: int, receiver: Receiver
    ) -> None:
        request = pb.GetRequest(keys=b"".join(keys), namespace=namespace)
        assembly = _Assembly(len(keys), block_bytes)
        call = self._stub.Get(request, timeout=self._timeouts.get_s)
        try:
            while piece := await self._read(call):  # a false EOF ends the stream
                if (block := assembly.add(piece)) is not None:
                    receiver.write(assembly.index, block)
                    receiver.confirm(assembly.index)
                    assembly.next()
        finally:
            call.cancel()  # nothing happens to a call that has ended

    async def _get_mapped(self, memory: SharedSegment, want: _Want, receiver: Receiver) -> None:
        index = 0
        while index < len(want.keys):
            asked_at = time.monotonic()
            request = pb.LeaseRequest(
                keys=b"".join(want.keys[index:]),
                namespace=want.namespace,
                max_count=LEASE_BLOCKS,
                released_lease_ids=self._done_leases,
                is_continued=index > 0,
            )
            self._done_leases = []
            lease = await self._stub.Lease(request, timeout=self._timeouts.stall_s)
            try:
                ends_at = asked_at + lease.lease_ms / 1000 - LEASE_MARGIN_S
                await self._copy(memory, _Leased(want, index, lease, ends_at), receiver)
            finally:
                self._release(lease.lease_id)
            index += len(lease.offsets)
            if not lease.has_more or not lease.offsets:
                return

    async def _copy(self, memory: SharedSegment, leased: _Leased, receiver: Receiver) -> None:
        lease, size = leased.lease, leased.want.block_bytes
        if lease.offsets and lease.size_bytes != size:
            raise TransferFailed(f"blocks have {lease.size_bytes} bytes, {size} were expected")
        since_turn = 0
        for at, (offset, expected) in enumerate(zip(lease.offsets, lease.checksums, strict=False)):
            if offset + size > memory.num_bytes or leased.first + at >= len(leased.want.keys):
                raise TransferFailed(
                    f"block {leased.first + at} lies outside of what was asked for"
                )
            view = memory.buffer[offset : offset + size]
            if (found := checksum(view)) != expected:
                self._note_corrupt(leased.want.keys[leased.first + at])
                raise TransferFailed(
                    f"block {leased.first + at} has checksum {found:016x}, not {expected:016x}"
                )
            receiver.write(leased.first + at, view)
            # Behind its end the store may have put another block there while this was copied.
            if time.monotonic() > leased.ends_at:
                raise TransferFailed("the lease ended before its blocks were copied")
            receiver.confirm(leased.first + at)
            since_turn += size
            if since_turn >= COPY_STEP_BYTES:
                since_turn = 0
                await asyncio.sleep(0)

    def _note_corrupt(self, key: BlockKey) -> None:
        request = pb.ReleaseRequest(corrupt_keys=key)
        call = self._stub.Release(request, timeout=self._timeouts.find_s)
        call.add_done_callback(lambda _: None)

    def _release(self, lease_id: int) -> None:
        if lease_id:
            self._done_leases.append(lease_id)
            if self._releasing is None or self._releasing.done():
                self._releasing = asyncio.create_task(self._release_done())

    async def _release_done(self) -> None:
        """Tells the store which leases are over, unless the next one has told it by then."""
        await asyncio.sleep(RELEASE_AFTER_S)
        lease_ids, self._done_leases = self._done_leases, []
        if lease_ids:
            request = pb.ReleaseRequest(lease_ids=lease_ids)
            with suppress(grpc.aio.AioRpcError):  # then they end by themselves
                await self._stub.Release(request, timeout=self._timeouts.find_s)

    async def _read(self, call: Any) -> Any:
        async with asyncio.timeout(self._timeouts.stall_s):
            return await call.read()


@dataclass(frozen=True, slots=True)
class _Want:
    """What a reader asks for."""

    keys: Sequence[BlockKey]
    namespace: str
    block_bytes: int


@dataclass(frozen=True, slots=True)
class _Leased:
    """A part of it, leased."""

    want: _Want
    first: int
    lease: Any
    ends_at: float
    """In seconds of the monotonic clock, the margin taken off."""


class _Assembly:
    """Puts pieces together, one block after the other."""

    def __init__(self, num_keys: int, block_bytes: int) -> None:
        self.index = 0
        self._num_keys = num_keys
        self._block_bytes = block_bytes
        self._partial = bytearray()

    def add(self, piece: Any) -> bytes | memoryview | None:
        """The whole, verified block when this was its last piece. Raises `TransferFailed`."""
        data: bytes = piece.data
        end = piece.offset_bytes + len(data)
        is_next = piece.index == self.index and piece.offset_bytes == len(self._partial)
        if not is_next or not data or end > self._block_bytes or self.index >= self._num_keys:
            raise TransferFailed(
                f"block {piece.index} bytes {piece.offset_bytes} to {end} came out of order; "
                f"{self._block_bytes} bytes of block {self.index} are due"
            )
        if len(data) == self._block_bytes:
            self._verify(data, piece.checksum)
            return data
        self._partial += data
        if end < self._block_bytes:
            return None
        self._verify(self._partial, piece.checksum)
        return memoryview(self._partial)

    def next(self) -> None:
        """Goes on to the next block."""
        self.index += 1
        self._partial = bytearray()

    def _verify(self, data: bytes | bytearray, expected: int) -> None:
        if (found := checksum(data)) != expected:
            raise TransferFailed(
                f"block {self.index} has checksum {found:016x}, not {expected:016x}"
            )


async def _pieces(blocks: Sequence[OfferedBlock], namespace: str) -> AsyncIterator[pb.PutRequest]:
    for block in blocks:
        data, size = block.data, len(block.data)
        total = checksum(data)
        view = memoryview(data)
        for offset in range(0, size, PIECE_BYTES):
            end = min(size, offset + PIECE_BYTES)
            whole = data if isinstance(data, bytes) and end - offset == size else None
            yield pb.PutRequest(
                key=block.key,
                namespace=namespace,
                size_bytes=size,
                offset_bytes=offset,
                data=bytes(view[offset:end]) if whole is None else whole,
                checksum=total if end == size else 0,
                parent=block.parent or b"",
                tenant=block.tenant,
            )
