"""How the kvstore starts."""

from __future__ import annotations

import mmap
import os
import sys
from functools import partial

from baton.rpc import logs
from baton.rpc.serve import Process, launch
from baton.transfer.shm import SharedSegment, free_bytes, sweep_dead_segments
from baton.v1 import kvstore_pb2_grpc, worker_pb2_grpc
from services.kvstore import metrics
from services.kvstore.directory import Directory
from services.kvstore.disk import DiskTier
from services.kvstore.facts import FactsService
from services.kvstore.service import KvStoreService
from services.kvstore.settings import Settings
from services.kvstore.store import BlockStore, StorePlan
from services.kvstore.tiers import Tiers

_log = logs.get_logger(__name__)


async def build(process: Process, settings: Settings) -> None:
    """Wires memory, disk, RPCs and, where there is a Redis, what it tells there."""
    directory = None
    if settings.redis_url:
        directory = Directory(settings, process.worker_id, process.address, process.metrics_address)
        process.on_stop(directory.stop)
        process.on_ready(directory.announce)
        process.on_drain(directory.drain)
    tiers = Tiers(settings.disk_uses, directory)
    segment = _make_segment(settings)
    plan = StorePlan(settings.weights, settings.admission, segment.back if segment else None)
    memory = segment.buffer if segment else memoryview(mmap.mmap(-1, settings.capacity_bytes))
    tiers.store = BlockStore(memory, tiers, plan)
    if segment is not None:
        process.on_stop(segment.remove)
    if settings.disk is not None:
        tiers.disk = DiskTier(
            settings.disk, settings.disk_bytes, tiers.note_left_disk, settings.weights
        )
        process.add(tiers.disk)
        process.on_drain(tiers.spill)
    if directory is not None:
        facts = FactsService(tiers, directory)
        add_facts = worker_pb2_grpc.add_WorkerServiceServicer_to_server
        process.register(["baton.v1.WorkerService"], partial(add_facts, facts))
    service = KvStoreService(tiers, segment)
    process.on_stop(service.close)
    add = kvstore_pb2_grpc.add_KvStoreServiceServicer_to_server
    process.register(["baton.v1.KvStoreService"], partial(add, service))
    process.watch(lambda: tiers.store.used_bytes <= tiers.store.capacity_bytes)
    metrics.follow(tiers, service.leases)


def _make_segment(settings: Settings) -> SharedSegment | None:
    if not settings.share_memory:
        return None
    sweep_dead_segments()
    if (free := free_bytes()) < settings.capacity_bytes:
        _log.warning(
            "shared memory has no room for --capacity-bytes, blocks go over gRPC only",
            free_bytes=free,
            capacity_bytes=int(settings.capacity_bytes),
        )
        return None
    try:
        return SharedSegment.create(settings.capacity_bytes, backed=False)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        _log.warning("no shared memory, blocks go over gRPC only", reason=reason)
        return None


if __name__ == "__main__":
    sys.exit(launch("kvstore", Settings, build))
