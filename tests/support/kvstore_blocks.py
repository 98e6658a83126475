"""Blocks with bytes of their own, for kvstore tests."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from baton.blocks import BlockKey, checksum
from baton.rpc.channels import open_channel
from baton.transfer.kvstore_memory import OfferedBlock
from baton.v1 import kvstore_pb2 as pb
from baton.v1 import kvstore_pb2_grpc


def key_of(number: int) -> BlockKey:
    """A key, spread like real ones."""
    return BlockKey(hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest())


def data_of(number: int, size: int) -> bytes:
    """Bytes that differ from block to block and from place to place."""
    seed = hashlib.blake2b(number.to_bytes(8, "big")).digest()
    return (seed * (size // len(seed) + 1))[:size]


def blocks_of(numbers: Iterable[int], size: int) -> list[OfferedBlock]:
    """Blocks as a client puts them."""
    return [OfferedBlock(key_of(number), data_of(number, size)) for number in numbers]


def chain_of(numbers: Sequence[int], size: int, tenant: str = "") -> list[OfferedBlock]:
    """The same as one chain: each is the parent of the next, all are of the first one's group."""
    parents = [None, *map(key_of, numbers)]
    return [
        OfferedBlock(key_of(number), data_of(number, size), parent, key_of(numbers[0]), tenant)
        for number, parent in zip(numbers, parents, strict=False)
    ]


class Sink:
    """Takes what a client reads."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, bytes]] = []

    def __call__(self, index: int, data: bytes | memoryview) -> None:
        """Keeps a copy."""
        self.blocks.append((index, bytes(data)))


def piece(number: int, size: int = 100, **changes: Any) -> pb.PutRequest:
    """The only piece of a small block, with some fields changed."""
    data = data_of(number, size)
    fields = {
        "key": key_of(number),
        "namespace": "ns",
        "size_bytes": size,
        "data": data,
        "checksum": checksum(data),
    }
    return pb.PutRequest(**{**fields, **changes})


async def stream(*pieces: pb.PutRequest) -> AsyncIterator[pb.PutRequest]:
    """The pieces as a request stream."""
    for each in pieces:
        yield each


async def until_stored(address: str, num_blocks: int) -> None:
    """Waits until kvstore holds so many blocks: workers offer them in the background."""
    async with asyncio.timeout(20), open_channel(address) as channel:
        stub = kvstore_pb2_grpc.KvStoreServiceStub(channel)
        while True:
            stats = await stub.GetStats(pb.GetStatsRequest(), timeout=5)
            if stats.block_count >= num_blocks:
                return
