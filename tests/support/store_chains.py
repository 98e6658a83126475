"""Chains of small blocks in a store in this process."""

from __future__ import annotations

import hashlib
from typing import Any

from baton.blocks import BlockKey, checksum
from services.kvstore.store import BlockStore, Observer, Offer, StorePlan

SIZE = 128


def key_of(number: int) -> BlockKey:
    """A key, spread like real ones."""
    return BlockKey(hashlib.blake2b(number.to_bytes(4, "big"), digest_size=16).digest())


def data_of(number: int, size: int = SIZE) -> bytes:
    """Bytes that differ from block to block."""
    return bytes([number % 256]) * size


def make_store(num_blocks: int, observer: Observer | None = None, **plan: Any) -> BlockStore:
    """A store with room for so many blocks."""
    return BlockStore(memoryview(bytearray(SIZE * num_blocks)), observer, StorePlan(**plan))


def put(store: BlockStore, offer: Offer, data: bytes) -> bool:
    """Stores a block; says whether it got in."""
    room = store.reserve(offer)
    if room is None:
        return False
    store.view(room)[:] = data
    return store.commit(room, checksum(data)) is not None


def put_chain(
    store: BlockStore,
    numbers: range | list[int],
    namespace: str = "ns",
    *,
    tenant: str = "",
    before: int | None = None,
    batch: int = 1000,
) -> list[bool]:
    """Stores a chain, `batch` blocks a call, behind a block; says which of them got in."""
    results = []
    use = store.new_use()
    for index, number in enumerate(numbers):
        if index and index % batch == 0:
            use = store.new_use()
        parent = numbers[index - 1] if index else before
        rank = (use, -(index % batch))
        offer = Offer(
            key_of(number),
            namespace,
            SIZE,
            rank,
            None if parent is None else key_of(parent),
            tenant,
        )
        if store.touch(key_of(number), use, index % batch):
            results.append(False)
        else:
            results.append(put(store, offer, data_of(number)))
    return results


def ask(store: BlockStore, numbers: range | list[int], times: int = 1) -> None:
    """A reader asks for a chain, as the service does."""
    for _ in range(times):
        for number in numbers:
            store.sketch.add(key_of(number))


def read_chain(store: BlockStore, numbers: range | list[int], namespace: str = "ns") -> list[int]:
    """Reads blocks as one call does; returns the leading run."""
    use = store.new_use()
    run = []
    for index, number in enumerate(numbers):
        if store.peek(key_of(number), namespace) is None or not store.verify(key_of(number)):
            break
        store.touch(key_of(number), use, index)
        run.append(number)
    return run


def held(store: BlockStore, numbers: range) -> list[int]:
    """Those of the blocks that are held."""
    return [number for number in numbers if key_of(number) in store]
