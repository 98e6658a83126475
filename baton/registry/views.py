"""What the registry knows, in the words of the routing policy."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from baton.policy.failures import FailureMemory
from baton.policy.index import BlockIndex
from baton.policy.table import WorkerTable
from baton.policy.workers import RoutingConfig, WorkerView
from baton.registry.bookings import NOTHING, BookingBoard, Promise
from baton.registry.loads import Loads
from baton.registry.records import LoadRecord, WorkerRecord
from baton.request import Role

_NO_LOAD = LoadRecord()
FEW_WORKERS = 64
LOOK_SECONDS = 0.02
"""While failures fade, more than `FEW_WORKERS` workers are looked at this often, not each time."""


class Directory(Protocol):
    """Whoever knows the workers: a `Watcher`, or something else with these values."""

    @property
    def workers(self) -> Mapping[str, WorkerRecord]:
        """Worker records by worker id."""

    @property
    def version(self) -> int:
        """Grows whenever `workers` changes."""

    @property
    def loads(self) -> Loads:
        """The newest loads by worker id; some may be missing."""

    @property
    def index(self) -> BlockIndex:
        """Who caches which blocks."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What a view in a table was made of."""

    record: WorkerRecord
    load: LoadRecord
    is_reachable: bool
    failure_ms: float
    block_bytes: int


class WorkerTables:
    """Each model's prefill and decode workers as tables for routing, made anew where they change.

    Records, loads and bookings count at once.
    """

    def __init__(
        self,
        directory: Directory,
        board: BookingBoard,
        config: RoutingConfig,
        failures: FailureMemory | None = None,
    ) -> None:
        self._config = config
        self._directory = directory
        self._board = board
        self._failures = failures or FailureMemory()
        self._known: dict[str, _Known] = {}
        self._tables: dict[str, WorkerTable] = {}
        self._seen = (-1, -1)
        """The directory's versions that the views are of."""
        self._looked_at = 0.0
        self._unreachable: Collection[str] = ()

    def table(self, model: str, unreachable: Collection[str] = ()) -> WorkerTable:
        """The workers of a model. To the `unreachable` ones the caller has no working stream."""
        directory = self._directory
        versions = (directory.version, directory.loads.version)
        if (
            versions != self._seen
            or unreachable != self._unreachable
            or (not self._failures.is_empty and self._is_due())
        ):
            self._seen, self._unreachable = versions, unreachable
            self._looked_at = time.monotonic()
            self._look(self._looked_at)
        for worker_id in self._board.take_changed():
            known = self._known.get(worker_id)
            if known is not None:
                self._put(known)
        return self._table(model)

    def _is_due(self) -> bool:
        """Whether what failures cost should be worked out anew."""
        is_small = len(self._known) <= FEW_WORKERS
        return is_small or time.monotonic() - self._looked_at >= LOOK_SECONDS

    def _look(self, now: float) -> None:
        workers, loads = self._directory.workers, self._directory.loads
        self._failures.expire(now)
        for worker_id in self._known.keys() - workers.keys():
            self._tables[self._known.pop(worker_id).record.model].remove(worker_id)
        for worker_id, record in workers.items():
            if record.role is Role.KVSTORE:
                continue
            load = loads.get(worker_id, _NO_LOAD)
            is_reachable = worker_id not in self._unreachable
            failure_ms = self._failures.cost_ms(worker_id, now)
            known = self._known.get(worker_id)
            if (
                known is not None
                and known.record is record
                and known.load is load
                and known.is_reachable is is_reachable
                and known.failure_ms == failure_ms
            ):
                continue
            if known is not None and known.record.model != record.model:
                self._tables[known.record.model].remove(worker_id)
            num_bytes = record.layout.block_bytes if record.layout else 0
            known = _Known(record, load, is_reachable, failure_ms, num_bytes)
            self._known[worker_id] = known
            self._put(known)

    def _table(self, model: str) -> WorkerTable:
        table = self._tables.get(model)
        if table is None:
            table = self._tables[model] = WorkerTable(config=self._config)
        return table

    def _put(self, known: _Known) -> None:
        table = self._table(known.record.model)
        worker_id = known.record.worker_id
        table.put(_view(known, self._board.promised(worker_id), self._board.gone(worker_id)))


def _view(known: _Known, promise: Promise = NOTHING, gone: Promise = NOTHING) -> WorkerView:
    record, load, layout = known.record, known.load, known.record.layout
    return WorkerView(
        record.worker_id,
        record.role,
        layout.namespace if layout is not None else "",
        layout.block_size if layout is not None else 0,
        known.block_bytes,
        num_blocks=record.num_blocks,
        num_running=load.num_running,
        num_waiting=load.num_waiting,
        num_receiving=load.num_receiving,
        num_queued_tokens=load.num_waiting_tokens,
        num_used_blocks=load.num_used_blocks,
        num_booked_sequences=promise.num_sequences,
        num_booked_tokens=promise.num_tokens,
        num_new_tokens=promise.num_new_tokens,
        num_gone_sequences=gone.num_sequences,
        num_gone_tokens=gone.num_tokens,
        learned=load.learned,
        failure_ms=known.failure_ms,
        is_reachable=known.is_reachable,
        is_draining=record.is_draining,
    )
