"""Engines that compute, with torch."""

from __future__ import annotations

import torch

import kernels
from baton.blocks import LAYOUT_VERSION, KvLayout, make_namespace
from baton.engine.decode_graphs import DecodeGraphs
from baton.engine.engine import Engine
from baton.engine.model.weights import LoadedModel, load_model
from baton.engine.profiling import activation_bytes
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig
from baton.errors import ModelError
from baton.worker.cores import usable_cores
from baton.worker.settings import WorkerSettings

CPU_KV_BYTES = 256 << 20
"""A host's memory belongs to others too: more only on request."""


class ModelEngines:
    """An `EngineSource` that has loaded the model's weights."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.device = _pick_device(settings.device)
        self._has_graphs = settings.cuda_graphs and self.device == "cuda"
        self._model = _load(settings, self.device)
        self.layout = _make_layout(self._model, settings)
        self.context_len = self._model.config.context_len
        self._step_limits = (settings.max_batch_tokens, settings.max_sequences)

    @property
    def kv_bytes(self) -> int:
        """See `EngineSource`."""
        if self.device == "cpu":
            return CPU_KV_BYTES
        largest = activation_bytes(
            self._model.transformer, self.layout, *self._step_limits, self.device
        )
        # A twentieth stays free for the allocator's slack, CUDA graphs and libraries' workspaces.
        free, total = torch.cuda.mem_get_info()
        return max(0, free - largest - total // 20)

    def make_engine(self, config: EngineConfig, buffer: memoryview | None = None) -> Engine:
        """See `EngineSource`."""
        arena = TensorArena(self.layout, config.num_blocks, self.device, buffer)
        graphs = self._graphs(arena, config) if self._has_graphs else None
        if graphs is not None:
            graphs.prepare()
        return Engine(ModelRunner(self._model, arena, graphs), config, arena)

    def _graphs(self, arena: TensorArena, config: EngineConfig) -> DecodeGraphs:
        model = self._model.config
        heads = (model.num_heads, model.num_kv_heads, model.head_dim)
        ops, dtype = self._model.ops, self._model.transformer.dtype
        limits = (config.max_sequences, config.context_len)
        return DecodeGraphs(
            self._model.transformer,
            arena,
            limits,
            lambda num: ops.static_attention_plan(num, heads, dtype, self.device),
            ops.device_sample,
        )


def _pick_device(wanted: str) -> str:
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ModelError("--device cuda was asked for, but torch finds no CUDA device here")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and has_gpu) else "cpu"


def _load(settings: WorkerSettings, device: str) -> LoadedModel:
    torch.set_num_threads(settings.threads or usable_cores())
    ops = kernels.load(device, settings.kernels)
    dtype = settings.dtype
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    return load_model(
        settings.model,
        device,
        dtype,
        ops,
        weights=settings.weights,
        is_invariant=settings.batch_invariant,
    )


def _make_layout(model: LoadedModel, settings: WorkerSettings) -> KvLayout:
    config = model.config
    dtype = str(model.transformer.dtype).removeprefix("torch.")
    shape = (config.num_layers, config.num_kv_heads, config.head_dim)
    namespace = make_namespace(
        model.fingerprint, dtype, settings.block_size, LAYOUT_VERSION, *shape
    )
    return KvLayout(settings.block_size, *shape, dtype, namespace)
