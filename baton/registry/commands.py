"""What a worker's life looks like in Redis commands; each method appends to a transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from baton.registry.client import Pipe, milliseconds
from baton.registry.events import MAX_STREAM_ENTRIES, EventBatch
from baton.registry.keys import Keys
from baton.registry.records import LoadRecord, WorkerRecord
from baton.registry.timing import Timing

MAX_NEWS_ENTRIES = 256
FORGET_AFTER_S = 3600.0
"""Names without a refresh for this long leave the list of workers; far above any clock skew."""


@dataclass(frozen=True, slots=True)
class WorkerCommands:
    """The commands of one worker."""

    keys: Keys
    timing: Timing
    worker_id: str

    def forget_predecessor(self, pipe: Pipe) -> None:
        """Removes what an earlier process of this name left behind."""
        pipe.delete(self.keys.events(self.worker_id), self.keys.load(self.worker_id))

    def announce(self, pipe: Pipe, record: WorkerRecord, marker: EventBatch) -> None:
        """Writes the record and tells gateways; has to be followed by `renew`."""
        pipe.hset(self.keys.worker(self.worker_id), mapping=record.to_fields())
        self.events(pipe, [marker])
        self._news(pipe, "up", record.epoch)

    def renew(self, pipe: Pipe) -> None:
        """Renews the lease and everything that lives as long."""
        pipe.pexpire(self.keys.worker(self.worker_id), milliseconds(self.timing.lease_s))
        pipe.pexpire(self.keys.events(self.worker_id), milliseconds(self.timing.stream_ttl_s))
        pipe.zadd(self.keys.workers, {self.worker_id: time.time()})
        pipe.zremrangebyscore(self.keys.workers, "-inf", time.time() - FORGET_AFTER_S)

    def events(self, pipe: Pipe, batches: Iterable[EventBatch]) -> None:
        """Appends batches to the worker's stream."""
        for batch in batches:
            pipe.xadd(
                self.keys.events(self.worker_id),
                batch.to_fields(),
                maxlen=MAX_STREAM_ENTRIES,
                approximate=True,
            )

    def load(self, pipe: Pipe, load: LoadRecord) -> None:
        """Replaces the load record."""
        life = milliseconds(self.timing.lease_s)
        pipe.set(self.keys.load(self.worker_id), load.to_json(), px=life)

    def withdraw(self, pipe: Pipe, epoch: str) -> None:
        """Removes all traces and tells gateways."""
        pipe.delete(self.keys.worker(self.worker_id))
        self.forget_predecessor(pipe)
        pipe.zrem(self.keys.workers, self.worker_id)
        self._news(pipe, "down", epoch)

    def _news(self, pipe: Pipe, what: str, epoch: str) -> None:
        pipe.xadd(
            self.keys.news,
            {"worker_id": self.worker_id, "epoch": epoch, "what": what},
            maxlen=MAX_NEWS_ENTRIES,
            approximate=True,
        )
