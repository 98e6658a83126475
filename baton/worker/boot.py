"""How a prefill or decode worker starts: kernels, model, arena, engine, and whom it tells."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from functools import partial

import torch

import kernels
from baton.blocks import LAYOUT_VERSION, KvLayout, make_namespace
from baton.engine.arena import Arena
from baton.engine.engine import Engine
from baton.engine.model.weights import LoadedModel, load_model
from baton.engine.types import EngineConfig, SequenceSpec
from baton.errors import ModelError
from baton.request import Role, SamplingParams
from baton.rpc import logs
from baton.rpc.serve import Process
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.shm import SharedSegment, sweep_dead_segments
from baton.v1 import worker_pb2_grpc
from baton.worker import metrics
from baton.worker.announce import Announcement, make_record
from baton.worker.fetch import BlockFetcher
from baton.worker.host import EngineHost
from baton.worker.identity import Identity
from baton.worker.offload import Offloader
from baton.worker.service import WorkerService
from baton.worker.settings import WorkerSettings

log = logs.get_logger(__name__)

CPU_KV_BYTES = 256 << 20
"""A host's memory belongs to others too: more only on request."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's parts, ready to be served."""

    me: Identity
    host: EngineHost
    fetcher: BlockFetcher
    segment: SharedSegment | None
    transports: tuple[str, ...]


async def boot(process: Process, settings: WorkerSettings, role: Role) -> Worker:
    """Loads all of a worker and adds it to its process. Raises `ModelError` where that can't be."""
    began = time.monotonic()
    device = _pick_device(settings.device)
    model = await asyncio.to_thread(_load, settings, device)
    layout = _make_layout(model, settings)
    config = _make_config(model, layout, settings, device)
    segment = _make_segment(layout, config, device, settings)
    if segment is not None:
        process.on_stop(segment.remove)
    arena = Arena(layout, config.num_blocks, device, segment.buffer if segment else None)
    host = EngineHost(Engine(model, config, arena), lambda engine: _warm_up(engine, model))
    host.on_failure(process.fail)
    host.subscribe(metrics.observe)
    me = Identity(process.worker_id, role, process.address, settings.served_name)
    log.info(
        "model loaded",
        model=me.model,
        device=device,
        dtype=layout.dtype,
        blocks=config.num_blocks,
        block_bytes=layout.block_bytes,
        seconds=round(time.monotonic() - began, 2),
    )
    transports = tuple(name for name in settings.transports if name != "shm" or segment)
    fetcher = _serve(process, settings, host, me, transports)
    return Worker(me, host, fetcher, segment, transports)


def _serve(
    process: Process,
    settings: WorkerSettings,
    host: EngineHost,
    me: Identity,
    transports: tuple[str, ...],
) -> BlockFetcher:
    """Adds to the process what both roles have."""
    record = make_record(me, host.engine, transports, process.metrics_address)
    announcement = Announcement(settings.redis_url, record, host)
    client = KvStoreClient(settings.kvstore, process.tls) if settings.kvstore else None
    service = WorkerService(me, host, announcement)
    process.register(
        ["baton.v1.WorkerService"],
        partial(worker_pb2_grpc.add_WorkerServiceServicer_to_server, service),
    )
    process.add(host)
    if client is not None:
        process.add(Offloader(host, client))
    process.watch(host.is_able)
    process.on_ready(announcement.start)
    process.on_drain(announcement.drain)
    process.on_stop(announcement.stop)
    return BlockFetcher(host, client)


def _pick_device(wanted: str) -> str:
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ModelError("--device cuda was asked for, but torch finds no CUDA device here")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and has_gpu) else "cpu"


def _load(settings: WorkerSettings, device: str) -> LoadedModel:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    ops = kernels.load(device, settings.kernels)
    dtype = settings.dtype
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    return load_model(settings.model, device, dtype, ops)


def _warm_up(engine: Engine, model: LoadedModel) -> None:
    """Runs a prompt and a few decode steps on blocks of its own, so that no client pays for them.

    Libraries pick their routines when they first see a shape, and a thread gets its memory when it
    first asks for it: so this runs where the engine will run.
    """
    layout = engine.layout
    num_tokens = layout.block_size + 1
    config = EngineConfig(num_blocks=4, block_size=layout.block_size, context_len=2 * num_tokens)
    double = Engine(model, config, Arena(layout, config.num_blocks, engine.arena.device))
    sampling = SamplingParams(max_tokens=3, ignore_eos=True)
    double.add(SequenceSpec("warm-up", (0,) * num_tokens, num_tokens, sampling))
    while double.num_sequences:
        double.step()


def _make_layout(model: LoadedModel, settings: WorkerSettings) -> KvLayout:
    config = model.config
    dtype = str(model.transformer.dtype).removeprefix("torch.")
    shape = (config.num_layers, config.num_kv_heads, config.head_dim)
    namespace = make_namespace(
        model.fingerprint, dtype, settings.block_size, LAYOUT_VERSION, *shape
    )
    return KvLayout(settings.block_size, *shape, dtype, namespace)


def _make_config(
    model: LoadedModel, layout: KvLayout, settings: WorkerSettings, device: str
) -> EngineConfig:
    context_len = settings.context_len or model.config.context_len
    if context_len > model.config.context_len:
        raise ModelError(
            f"--context-len is {context_len}, the model's limit is {model.config.context_len}"
        )
    kv_bytes = _kv_bytes(settings, device)
    num_blocks = settings.num_blocks or kv_bytes // layout.block_bytes
    if num_blocks < 2:
        raise ModelError(
            f"{kv_bytes} bytes for blocks hold {num_blocks} of {layout.block_bytes} bytes each, at "
            "least 2 are needed; give more with --kv-bytes"
        )
    return EngineConfig(
        num_blocks=num_blocks,
        block_size=settings.block_size,
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
        context_len=min(context_len, num_blocks * layout.block_size),
    )


def _kv_bytes(settings: WorkerSettings, device: str) -> int:
    if settings.kv_bytes:
        return int(settings.kv_bytes)
    if device == "cpu":
        return CPU_KV_BYTES
    # A tenth stays free for activations and the allocator's slack.
    free, total = torch.cuda.mem_get_info()
    return max(0, free - total // 10)


def _make_segment(
    layout: KvLayout, config: EngineConfig, device: str, settings: WorkerSettings
) -> SharedSegment | None:
    """Shared memory for the arena, if it is wanted and there is room; loud when there isn't."""
    if device != "cpu" or "shm" not in settings.transports:
        return None
    sweep_dead_segments()
    num_bytes = config.num_blocks * layout.block_bytes
    try:
        return SharedSegment.create(num_bytes)
    except OSError as error:
        log.warning(
            "no shared memory for the arena, hand-offs go over gRPC",
            bytes=num_bytes,
            reason=os.strerror(error.errno or 0),
        )
        return None
