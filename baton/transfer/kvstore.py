"""How workers use kvstore: nothing here ever fails a request, it only finds fewer blocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import grpc

from baton.blocks import BlockKey
from baton.errors import BatonError, TransferFailed
from baton.policy.rendezvous import choose
from baton.rpc import logs
from baton.rpc.channels import TlsFiles
from baton.rpc.metrics import counter, histogram
from baton.rpc.status import from_rpc_error
from baton.transfer.kvstore_memory import OfferedBlock, Outbox
from baton.transfer.kvstore_node import KvStoreNode, Timeouts
from baton.transfer.shm import SharedSegment

T = TypeVar("T")
Sink = Callable[[int, bytes | memoryview], None]

MAX_KEYS = 16_384
"""Most keys in a call; a context of a million tokens in blocks of 64."""

_log = logs.get_logger(__name__)
_failures = counter("kvstore_client_failures", "Calls to kvstore that failed.", ("operation",))
_blocks = counter("kvstore_client_blocks", "Blocks moved to and from kvstore.", ("direction",))
_bytes = counter("kvstore_client_bytes", "Bytes moved to and from kvstore.", ("direction",))
_seconds = histogram("kvstore_client_seconds", "Time of calls to kvstore.", ("operation",))


@dataclass(frozen=True, slots=True)
class _Share:
    """The part of a call's keys that lives on one node."""

    node: KvStoreNode
    indexes: list[int]
    """Into the call's keys, ascending."""


@dataclass(frozen=True, slots=True)
class _Receipt:
    """What came of a share. See `Receiver`."""

    indexes: list[int]
    sink: Sink
    got: list[int]

    def write(self, at: int, data: bytes | memoryview) -> None:
        """See `Receiver`."""
        self.sink(self.indexes[at], data)

    def confirm(self, at: int) -> None:
        """See `Receiver`."""
        self.got.append(self.indexes[at])


class KvStoreClient:
    """One or several kvstores as one. A key lives on the node that hashing picks among those alive.

    No method raises for a kvstore's sake: a failure is counted, logged once per outage and looks
    like an empty store. A failing node is left alone for a second or more.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        tls: TlsFiles | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  # frozen
        *,
        arena: SharedSegment | None = None,
        share_memory: bool = True,
    ) -> None:
        """`arena`: shared memory that blocks to put lie in; `share_memory` False: streams only."""
        self._outbox = Outbox(arena) if share_memory else None
        self._tls = tls
        self._timeouts = timeouts
        self._nodes: dict[str, KvStoreNode] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.set_addresses(addresses)

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Uses these nodes from now on: for watchers of the registry."""
        old = self._nodes
        self._nodes = {}
        for address in dict.fromkeys(addresses):
            kept = old.pop(address) if address in old else None
            self._nodes[address] = kept or self._new_node(address)
        for node in old.values():
            task = asyncio.ensure_future(node.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _new_node(self, address: str) -> KvStoreNode:
        return KvStoreNode(address, self._tls, self._timeouts, self._outbox)

    async def find_missing(
        self, keys: Sequence[BlockKey], groups: Sequence[BlockKey] = ()
    ) -> list[BlockKey]:
        """The keys that a kvstore would take, in order; none when no kvstore answers.

        `groups`: each block's group, as it is put; none: every block is its own.
        """

        async def ask(share: _Share) -> list[int]:
            wanted = [keys[index] for index in share.indexes]
            missing = await self._try("find_missing", share.node, share.node.find_missing(wanted))
            return [share.indexes[at] for at in missing or ()]

        found = await _all(ask, self._shares((groups or keys)[:MAX_KEYS]))
        return [keys[index] for index in sorted(index for part in found for index in part)]

    async def put(self, blocks: Sequence[OfferedBlock], namespace: str) -> int:
        """Stores blocks of one namespace, which have one size; returns how many are held now.

        Their bytes stay as they are until this returns.
        """

        async def store(share: _Share) -> int:
            part = [self._as_kept(blocks[index]) for index in share.indexes]
            stored = await self._try("put", share.node, share.node.put(part, namespace)) or 0
            _count("put", stored, len(part[0].data))
            return stored

        groups = [block.group or block.key for block in blocks[:MAX_KEYS]]
        return sum(await _all(store, self._shares(groups)))

    async def get(
        self,
        keys: Sequence[BlockKey],
        namespace: str,
        block_bytes: int,
        write: Sink,
        groups: Sequence[BlockKey] = (),
    ) -> int:
        """Reads the longest run of held blocks from the first key on; returns its length.

        `write(index, data)` gets each block whole, after its checksum has been verified, and is not
        called any more when this has returned or raised; it copies the bytes. It may get blocks
        behind the run as well. `groups` as in `find_missing`.
        """

        async def read(share: _Share) -> list[int]:
            wanted = [keys[index] for index in share.indexes]
            receipt = _Receipt(share.indexes, write, [])
            call = share.node.get(wanted, namespace, block_bytes, receipt)
            await self._try("get", share.node, call)
            _count("get", len(receipt.got), block_bytes)
            return receipt.got

        parts = await _all(read, self._shares((groups or keys)[:MAX_KEYS]))
        held = {index for part in parts for index in part}
        return next((index for index in range(len(keys)) if index not in held), len(keys))

    async def close(self) -> None:
        """Closes all connections."""
        self.set_addresses(())
        await asyncio.gather(*self._closing)
        if self._outbox is not None:
            self._outbox.close()

    def _as_kept(self, block: OfferedBlock) -> OfferedBlock:
        """The first block of a group has its parent elsewhere when there are several stores."""
        is_first = block.group is None or block.group == block.key
        return replace(block, parent=None) if is_first and len(self._nodes) > 1 else block

    def _shares(self, groups: Sequence[BlockKey]) -> list[_Share]:
        """Who to ask for which blocks; nobody while all nodes fail."""
        now = time.monotonic()
        alive = [node for node in self._nodes.values() if node.breaker.may_try(now)]
        if not groups or not alive:
            return []
        if len(alive) == 1:
            return [_Share(alive[0], list(range(len(groups))))]
        seeds = [node.seed for node in alive]
        shares = [_Share(node, []) for node in alive]
        places: dict[BlockKey, int] = {}
        for index, group in enumerate(groups):
            place = places.get(group)
            if place is None:
                place = places[group] = choose(group, seeds)
            shares[place].indexes.append(index)
        return [share for share in shares if share.indexes]

    async def _try(self, operation: str, node: KvStoreNode, call: Awaitable[T]) -> T | None:
        """What the call returns; None, counted and logged, when it fails."""
        began = time.monotonic()
        node.breaker.begin(began)
        try:
            result = await call
        except (grpc.aio.AioRpcError, BatonError, TimeoutError) as failure:
            self._note_failure(operation, node, failure)
            return None
        except asyncio.CancelledError:
            # grpc also says so when the node's channel was closed under the call.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return None
        finally:
            _seconds.labels(operation).observe(time.monotonic() - began)
        if node.breaker.succeed():
            _log.info("kvstore is back", address=node.address)
        return result

    def _note_failure(self, operation: str, node: KvStoreNode, failure: Exception) -> None:
        _failures.labels(operation).inc()
        node.detach()
        if isinstance(failure, TransferFailed):
            # The node is there, a block of it is bad: the next call may well do.
            _log.warning("kvstore sent a bad block", address=node.address, reason=str(failure))
            return
        if node.breaker.fail(time.monotonic()):
            reason = str(failure) or "no answer in time"
            if isinstance(failure, grpc.aio.AioRpcError):
                reason = from_rpc_error(failure).message
            _log.warning(
                "kvstore fails, going on without it",
                address=node.address,
                operation=operation,
                reason=reason,
            )


async def _all(ask: Callable[[_Share], Awaitable[T]], shares: list[_Share]) -> list[T]:
    """Asks all nodes at once. Cancelled or failed, none of the calls goes on."""
    if len(shares) == 1:
        return [await ask(shares[0])]
    tasks: list[asyncio.Task[T]] = []
    async with asyncio.TaskGroup() as group:
        for share in shares:
            tasks.append(group.create_task(_awaited(ask, share)))
    return [task.result() for task in tasks]


async def _awaited(ask: Callable[[_Share], Awaitable[T]], share: _Share) -> T:
    return await ask(share)


def _count(direction: str, num_blocks: int, block_bytes: int) -> None:
    _blocks.labels(direction).inc(num_blocks)
    _bytes.labels(direction).inc(num_blocks * block_bytes)
