"""How a prefill worker starts."""

from __future__ import annotations

import sys
from functools import partial

from baton.request import Role
from baton.rpc.serve import Process, launch
from baton.v1 import prefill_pb2_grpc
from baton.worker.boot import boot
from services.prefill.service import PrefillService
from services.prefill.settings import PrefillSettings


async def build(process: Process, settings: PrefillSettings) -> None:
    """Loads the model and serves PrefillService."""
    worker = await boot(process, settings, Role.PREFILL)
    service = PrefillService(
        worker.me, worker.host, worker.fetcher, worker.segment, settings.max_queued
    )
    process.register(
        ["baton.v1.PrefillService"],
        partial(prefill_pb2_grpc.add_PrefillServiceServicer_to_server, service),
    )
    process.on_drain(service.drain)


if __name__ == "__main__":
    sys.exit(launch("prefill", PrefillSettings, build))
