"""Engines without arithmetic: `echo` at no cost, `emulated` at a real one's pace. No torch here."""

from __future__ import annotations

from baton.blocks import LAYOUT_VERSION, KvLayout, make_namespace
from baton.engine.arena import HostArena
from baton.engine.echo import EchoRunner
from baton.engine.emulated import EmulatedRunner
from baton.engine.engine import Engine, Runner
from baton.engine.model.config import ModelConfig, read_config
from baton.engine.model.fingerprint import fingerprint
from baton.engine.step_times import StepTimes, read_step_times
from baton.engine.types import EngineConfig
from baton.worker.settings import WorkerSettings

ECHO_KV_BYTES = 16 << 20
"""128 bytes a block of 16 tokens: two million tokens."""
EMULATED_KV_BYTES = 256 << 20


class EchoEngines:
    """An `EngineSource` that reads a model folder's config, and no weights."""

    def __init__(self, settings: WorkerSettings) -> None:
        config = read_config(settings.model)
        self._config = config
        self._times: StepTimes | None = None
        if settings.engine == "emulated" and settings.step_times is not None:
            self._times = read_step_times(settings.step_times)
        self.layout = _make_layout(config, settings)
        self.context_len = config.context_len
        self.device = "cpu"
        self.kv_bytes = ECHO_KV_BYTES if self._times is None else EMULATED_KV_BYTES

    def make_engine(self, config: EngineConfig, buffer: memoryview | None = None) -> Engine:
        """See `EngineSource`."""
        arena = HostArena(self.layout, config.num_blocks, buffer)
        eos_token_ids = frozenset(self._config.eos_token_ids)
        echo = EchoRunner(arena, self._config.vocab_size, eos_token_ids)
        runner: Runner = echo if self._times is None else EmulatedRunner(echo, self._times)
        return Engine(runner, config, arena)


def _make_layout(config: ModelConfig, settings: WorkerSettings) -> KvLayout:
    """The model's own where hand-offs must weigh what they weigh; else as small as can be."""
    shape, dtype = (1, 1, 1), "float32"
    if settings.engine == "emulated":
        shape = (config.num_layers, config.num_kv_heads, config.head_dim)
        dtype = settings.dtype if settings.dtype != "auto" else config.dtype or "float32"
    # The kind is part of the name: such a block must never serve an engine that computes.
    name = fingerprint(config, ())
    parts = (settings.engine, dtype, settings.block_size, LAYOUT_VERSION, *shape)
    return KvLayout(settings.block_size, *shape, dtype, make_namespace(name, *parts))
