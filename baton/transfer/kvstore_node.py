"""The calls to one kvstore, each under a deadline. Raises what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from baton.blocks import BlockKey, checksum
from baton.errors import TransferFailed
from baton.rpc.channels import TlsFiles, open_channel
from baton.transfer.breaker import Breaker
from baton.v1 import kvstore_pb2 as pb
from baton.v1 import kvstore_pb2_grpc

PIECE_BYTES = 512 * 1024
"""Keeps a message under one megabyte; larger pieces measured slower and dearer."""

Buffer = bytes | bytearray | memoryview
Block = tuple[BlockKey, Buffer]
Sink = Callable[[int, bytes | memoryview], None]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that calls may take. A request waits for `get`, so a silent node must show soon."""

    find_s: float = 1.0
    put_s: float = 15.0
    get_s: float = 5.0
    stall_s: float = 1.0
    """Longest silence while reading."""


class KvStoreNode:
    """A connection to one kvstore."""

    def __init__(self, address: str, tls: TlsFiles | None, timeouts: Timeouts) -> None:
        self.address = address
        self.breaker = Breaker()
        self.hash_seed = xxhash.xxh3_64_intdigest(address.encode())
        """Makes the node's own order of keys: the node with the greatest hash of a key holds it."""
        self._timeouts = timeouts
        # Its own connection: blocks never stand before control frames of other calls.
        self._channel = open_channel(address, tls, has_own_connection=True)
        stub: Any = kvstore_pb2_grpc.KvStoreServiceStub
        self._stub = stub(self._channel)

    async def close(self) -> None:
        """Ends the connection and the calls on it."""
        await self._channel.close(None)

    async def find_missing(self, keys: Sequence[BlockKey]) -> list[int]:
        """Indexes of the keys that are not held, ascending."""
        request = pb.FindMissingRequest(keys=b"".join(keys))
        answer = await self._stub.FindMissing(request, timeout=self._timeouts.find_s)
        return sorted(index for index in answer.missing if index < len(keys))

    async def put(self, blocks: Sequence[Block], namespace: str) -> int:
        """Stores blocks; returns how many of them are held now."""
        answer = await self._stub.Put(_pieces(blocks, namespace), timeout=self._timeouts.put_s)
        return int(answer.stored_count + answer.present_count)

    async def get(
        self, keys: Sequence[BlockKey], namespace: str, block_bytes: int, deliver: Sink
    ) -> None:
        """Delivers the leading held blocks, verified, in order. Raises `TransferFailed`."""
        request = pb.GetRequest(keys=b"".join(keys), namespace=namespace)
        assembly = _Assembly(len(keys), block_bytes)
        call = self._stub.Get(request, timeout=self._timeouts.get_s)
        try:
            while piece := await self._read(call):  # a false EOF ends the stream
                if (block := assembly.add(piece)) is not None:
                    deliver(assembly.index, block)
                    assembly.next()
        finally:
            call.cancel()  # nothing happens to a call that has ended

    async def _read(self, call: Any) -> Any:
        async with asyncio.timeout(self._timeouts.stall_s):
            return await call.read()


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


async def _pieces(blocks: Sequence[Block], namespace: str) -> AsyncIterator[pb.PutRequest]:
    for key, data in blocks:
        size = len(data)
        total = checksum(data)
        view = memoryview(data)
        for offset in range(0, size, PIECE_BYTES):
            end = min(size, offset + PIECE_BYTES)
            whole = data if isinstance(data, bytes) and end - offset == size else None
            yield pb.PutRequest(
                key=key,
                namespace=namespace,
                size_bytes=size,
                offset_bytes=offset,
                data=bytes(view[offset:end]) if whole is None else whole,
                checksum=total if end == size else 0,
            )
