"""How a prefill or decode worker starts: its engine, and whom it tells."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from functools import partial

from baton.engine.model.config import read_config
from baton.engine.types import EngineConfig, SequenceSpec
from baton.errors import ModelError
from baton.guides import GuideCompiler, GuideMatchers
from baton.request import Role, SamplingParams
from baton.rpc import logs
from baton.rpc.serve import Process
from baton.transfer.kvstore import KvStoreClient
from baton.transfer.shm import SharedSegment, sweep_dead_segments
from baton.v1 import worker_pb2_grpc
from baton.worker import metrics
from baton.worker.announce import Announcement, make_record
from baton.worker.engines import EngineSource, load_source
from baton.worker.fetch import BlockFetcher
from baton.worker.host import EngineHost
from baton.worker.identity import Identity
from baton.worker.learning import Learning
from baton.worker.offload import Offloader
from baton.worker.service import WorkerService
from baton.worker.settings import WorkerSettings

log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's parts, ready to be served."""

    me: Identity
    host: EngineHost
    fetcher: BlockFetcher
    learning: Learning
    segment: SharedSegment | None
    transports: tuple[str, ...]


async def boot(process: Process, settings: WorkerSettings, role: Role) -> Worker:
    """Loads all of a worker and adds it to its process. Raises `ModelError` where that can't be."""
    began = time.monotonic()
    source = await asyncio.to_thread(load_source, settings)
    config = _make_config(source, settings)
    segment = _make_segment(source, config, settings)
    if segment is not None:
        process.on_stop(segment.remove)
    engine = source.make_engine(config, segment.buffer if segment else None)
    matchers = GuideMatchers(_make_compiler(settings))
    host = EngineHost(engine, lambda _: _warm_up(source), matchers)
    host.on_failure(process.fail)
    host.subscribe(metrics.observe, is_late=True)
    learning = Learning(config)
    host.subscribe(learning.observe, is_late=True)
    me = Identity(process.worker_id, role, process.address, settings.served_name)
    if settings.engine != "model":
        log.warning("this engine computes nothing: it echoes prompts", engine=settings.engine)
    log.info(
        "model loaded",
        model=me.model,
        engine=settings.engine,
        device=source.device,
        dtype=source.layout.dtype,
        blocks=config.num_blocks,
        block_bytes=source.layout.block_bytes,
        seconds=round(time.monotonic() - began, 2),
    )
    transports = tuple(name for name in settings.transports if name != "shm" or segment)
    labels = {"engine": settings.engine, "kvstores": ",".join(settings.kvstore)}
    record = make_record(me, engine, labels, transports, process.metrics_address)
    announcement = Announcement(settings.redis_url, record, host, learning)
    fetcher = _serve(process, settings, host, me, announcement, segment)
    if fetcher.is_on:
        learning.ask_fetch_road(lambda: fetcher.road)
    return Worker(me, host, fetcher, learning, segment, transports)


def _serve(
    process: Process,
    settings: WorkerSettings,
    host: EngineHost,
    me: Identity,
    announcement: Announcement,
    segment: SharedSegment | None,
) -> BlockFetcher:
    """Adds to the process what both roles have."""
    client = _make_client(process, settings, segment) if settings.kvstore else None
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


def _make_client(
    process: Process, settings: WorkerSettings, segment: SharedSegment | None
) -> KvStoreClient:
    may_share = "shm" in settings.transports
    return KvStoreClient(settings.kvstore, process.tls, arena=segment, share_memory=may_share)


def _make_compiler(settings: WorkerSettings) -> GuideCompiler:
    config = read_config(settings.model)
    return GuideCompiler(settings.model, config.vocab_size, config.eos_token_ids)


def _warm_up(source: EngineSource) -> None:
    """Runs a prompt and a few decode steps on blocks of its own, so that no client pays for them.

    Libraries pick their routines when they first see a shape, and a thread gets its memory when it
    first asks for it: so this runs where the engine will run.
    """
    block_size = source.layout.block_size
    num_tokens = block_size + 1
    config = EngineConfig(
        num_blocks=4, block_size=block_size, context_len=2 * num_tokens, max_sequences=1
    )
    double = source.make_engine(config)
    sampling = SamplingParams(max_tokens=3, ignore_eos=True)
    double.add(SequenceSpec("warm-up", (0,) * num_tokens, num_tokens, sampling))
    while double.num_sequences:
        double.step()


def _make_config(source: EngineSource, settings: WorkerSettings) -> EngineConfig:
    context_len = settings.context_len or source.context_len
    if context_len > source.context_len:
        raise ModelError(
            f"--context-len is {context_len}, the model's limit is {source.context_len}"
        )
    block_bytes = source.layout.block_bytes
    kv_bytes = int(settings.kv_bytes) or source.kv_bytes
    num_blocks = settings.num_blocks or kv_bytes // block_bytes
    if num_blocks < 2:
        raise ModelError(
            f"{kv_bytes} bytes for blocks hold {num_blocks} of {block_bytes} bytes each, at "
            "least 2 are needed; give more with --kv-bytes"
        )
    return EngineConfig(
        num_blocks=num_blocks,
        block_size=settings.block_size,
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
        context_len=min(context_len, num_blocks * settings.block_size),
        looks_ahead=settings.lookahead == "on"
        or (settings.lookahead == "auto" and source.device == "cuda"),
    )


def _make_segment(
    source: EngineSource, config: EngineConfig, settings: WorkerSettings
) -> SharedSegment | None:
    """Shared memory for the arena, if it is wanted and there is room; loud when there isn't."""
    if source.device != "cpu" or "shm" not in settings.transports:
        return None
    sweep_dead_segments()
    num_bytes = config.num_blocks * source.layout.block_bytes
    try:
        return SharedSegment.create(num_bytes)
    except OSError as error:
        log.warning(
            "no shared memory for the arena, hand-offs go over gRPC",
            bytes=num_bytes,
            reason=os.strerror(error.errno or 0),
        )
        return None
