"""How a decode worker starts."""

from __future__ import annotations

import sys
from functools import partial

from baton.request import Role
from baton.rpc.serve import Process, launch
from baton.v1 import decode_pb2_grpc
from baton.worker.boot import boot
from services.decode.arrival import Arrivals
from services.decode.prefill_links import PrefillLinks, make_hello
from services.decode.sequences import Sequences
from services.decode.service import DecodeService
from services.decode.settings import DecodeSettings


async def build(process: Process, settings: DecodeSettings) -> None:
    """Loads the model and serves DecodeService."""
    worker = await boot(process, settings, Role.DECODE)
    hello = make_hello(worker, verify=settings.verify_transfers)
    links = PrefillLinks(worker.host, hello, process.tls)
    arrivals = Arrivals(
        worker.host,
        worker.fetcher,
        links,
        worker.learning,
        stall_s=settings.handoff_stall_seconds,
    )
    sequences = Sequences(worker.host, arrivals, max_sequences=settings.max_queued)
    service = DecodeService(worker.me.epoch, sequences)
    process.register(
        ["baton.v1.DecodeService"],
        partial(decode_pb2_grpc.add_DecodeServiceServicer_to_server, service),
    )
    process.add(links)
    process.on_drain(service.drain)


if __name__ == "__main__":
    sys.exit(launch("decode", DecodeSettings, build))
