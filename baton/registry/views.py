"""What the registry knows, in the words of the routing policy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from baton.blocks import BlockKey
from baton.policy.index import BlockIndex
from baton.policy.routing import WorkerView
from baton.registry.bookings import NOTHING, BookingBoard
from baton.registry.records import LoadRecord, WorkerRecord
from baton.request import Role

_NO_LOAD = LoadRecord()


class Directory(Protocol):
    """Whoever knows the workers: a `Watcher`, or something else with these values."""

    @property
    def workers(self) -> Mapping[str, WorkerRecord]:
        """Worker records by worker id."""

    @property
    def loads(self) -> Mapping[str, LoadRecord]:
        """The newest loads by worker id; some may be missing."""

    @property
    def index(self) -> BlockIndex:
        """Who caches which blocks."""


def view_workers(
    directory: Directory,
    model: str,
    keys: Sequence[BlockKey],
    board: BookingBoard | None = None,
    unreachable: Collection[str] = (),
) -> list[WorkerView]:
    """The prefill and decode workers of a model, as one request with these block keys sees them.

    `unreachable` are workers to which the caller has no working stream at the moment.
    """
    matched = directory.index.match(keys)
    views = []
    for record in directory.workers.values():
        if record.model != model or record.role is Role.KVSTORE:
            continue
        load = directory.loads.get(record.worker_id, _NO_LOAD)
        promise = board.promised(record.worker_id) if board else NOTHING
        views.append(
            WorkerView(
                worker_id=record.worker_id,
                role=record.role,
                namespace=record.namespace,
                block_size=record.block_size,
                num_blocks=record.num_blocks,
                num_cached_blocks=matched.get(record.worker_id, 0),
                num_running=load.num_running,
                num_waiting=load.num_waiting,
                num_receiving=load.num_receiving,
                num_queued_tokens=load.num_waiting_tokens,
                num_used_blocks=load.num_used_blocks,
                num_booked_sequences=promise.num_sequences,
                num_booked_tokens=promise.num_tokens,
                is_reachable=record.worker_id not in unreachable,
                is_draining=record.is_draining,
            )
        )
    return views
