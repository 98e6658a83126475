"""How the kvstore starts."""

from __future__ import annotations

import sys
from functools import partial

from baton.rpc.serve import Process, launch
from baton.v1 import kvstore_pb2_grpc
from services.kvstore import metrics
from services.kvstore.directory import Directory
from services.kvstore.service import KvStoreService
from services.kvstore.settings import Settings
from services.kvstore.store import BlockStore


async def build(process: Process, settings: Settings) -> None:
    """Wires a store, its RPCs and, where there is a Redis, its records."""
    directory = None
    if settings.redis_url:
        directory = Directory(
            settings.redis_url, process.worker_id, process.address, process.metrics_address
        )
        process.on_stop(directory.stop)
        process.on_ready(directory.announce)
        process.on_drain(directory.drain)
    store = BlockStore(settings.capacity_bytes, directory)
    service = KvStoreService(store)
    add = kvstore_pb2_grpc.add_KvStoreServiceServicer_to_server
    process.register(["baton.v1.KvStoreService"], partial(add, service))
    process.watch(lambda: store.used_bytes <= store.capacity_bytes)
    metrics.follow(store)


if __name__ == "__main__":
    sys.exit(launch("kvstore", Settings, build))
