"""Which engine a worker runs: one that computes, or one of those that only behave like it."""

from __future__ import annotations

from typing import Protocol

from baton.blocks import KvLayout
from baton.engine.engine import Engine
from baton.engine.types import EngineConfig
from baton.worker.settings import WorkerSettings


class EngineSource(Protocol):
    """Makes engines of one kind for one model folder."""

    @property
    def layout(self) -> KvLayout:
        """How blocks lie. Engines of different kinds have different namespaces."""

    @property
    def context_len(self) -> int:
        """The model's limit."""

    @property
    def device(self) -> str:
        """Where blocks lie: `cpu` or `cuda`."""

    @property
    def kv_bytes(self) -> int:
        """Memory for blocks where the settings say nothing."""

    def make_engine(self, config: EngineConfig, buffer: memoryview | None = None) -> Engine:
        """An engine on an arena of its own; in `buffer`, which only host memory can be."""


def load_source(settings: WorkerSettings) -> EngineSource:
    """What the settings ask for. Only an engine that computes loads torch. Raises ModelError."""
    if settings.engine == "model":
        from baton.worker.model_engines import ModelEngines

        return ModelEngines(settings)
    from baton.worker.echo_engines import EchoEngines

    return EchoEngines(settings)
