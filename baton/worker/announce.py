"""Tells Redis what the engine does: block events and load, off every request's path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from baton.engine.engine import Engine
from baton.engine.types import StepLoad, StepOutput
from baton.registry.announcer import Announcer
from baton.registry.records import LoadRecord, WorkerRecord
from baton.worker.host import EngineHost
from baton.worker.identity import Identity
from baton.worker.learning import Learning


class Announcement:
    """The worker's announcer, fed by its engine; silent without a Redis."""

    def __init__(
        self, redis_url: str, record: WorkerRecord, host: EngineHost, learning: Learning
    ) -> None:
        self._learning = learning
        self._announcer = Announcer(redis_url, record) if redis_url else None
        if self._announcer is not None:
            host.subscribe(self._deliver, is_late=True)

    @property
    def event_seq(self) -> int:
        """Number of the last block event announced."""
        return self._announcer.event_seq if self._announcer else 0

    async def start(self) -> None:
        """Announces the worker: call it when it is ready."""
        if self._announcer is not None:
            # Before its first step gateways should know as much as there is to know.
            self._announcer.publish_load(partial(self._load, StepLoad()))
            await self._announcer.start()

    async def drain(self) -> None:
        """Asks gateways for no new work."""
        if self._announcer is not None:
            self._announcer.update_record(is_draining=True)

    async def stop(self) -> None:
        """Takes the worker's record back."""
        if self._announcer is not None:
            await self._announcer.stop()

    def _deliver(self, output: StepOutput) -> None:
        assert self._announcer is not None
        self._announcer.publish_events(output.block_events)
        self._announcer.publish_load(partial(self._load, output.load))

    def _load(self, load: StepLoad) -> LoadRecord:
        """Asked for when it is sent: fitting costs more than most steps' news are worth."""
        return replace(LoadRecord.of(load), learned=self._learning.learned())


def make_record(
    me: Identity,
    engine: Engine,
    labels: Mapping[str, str],
    transports: tuple[str, ...],
    metrics_address: str,
) -> WorkerRecord:
    """The worker as gateways see it; `labels` as in `WorkerRecord`."""
    return WorkerRecord(
        worker_id=me.worker_id,
        role=me.role,
        address=me.address,
        epoch=me.epoch,
        model=me.model,
        layout=engine.layout,
        num_blocks=engine.config.num_blocks,
        context_len=engine.config.context_len,
        metrics_address=metrics_address,
        labels=labels,
        transports=transports,
    )
