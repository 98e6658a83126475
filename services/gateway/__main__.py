"""How the gateway starts."""

from __future__ import annotations

import sys

from baton.policy.rules import Routing, chooser
from baton.policy.workers import Prefill, RoutingConfig
from baton.registry.bookings import BookingBoard
from baton.registry.watcher import Watcher
from baton.rpc import logs
from baton.rpc.serve import Process, launch
from services.gateway import explain, kserve
from services.gateway.admission import Admission, AdmissionSettings
from services.gateway.core import Core, Limits
from services.gateway.fleet import Directory, Fleet, OnWorker
from services.gateway.grpc_door import SERVICE_NAME, GatewayService
from services.gateway.models import Models
from services.gateway.openai import HttpServer, app
from services.gateway.openai.app import HttpLimits
from services.gateway.openai.replies import ReplySettings
from services.gateway.placement import Placer
from services.gateway.pools import FleetPools
from services.gateway.settings import Settings
from services.gateway.snapshots import WorkerDesk
from services.gateway.static_directory import StaticDirectory

NO_REDIS = "redis://127.0.0.1"
"""Stands for no Redis at all: a board that is never started connects to nothing."""

log = logs.get_logger(__name__)


async def build(process: Process, settings: Settings) -> None:
    """Puts the gateway's parts together. What others need is added first and stops last."""
    desk = WorkerDesk(process.tls)

    def open_directory(on_up: OnWorker, on_down: OnWorker) -> Directory:
        if settings.redis_url:
            return Watcher(settings.redis_url, desk.snapshot, on_up=on_up, on_down=on_down)
        return StaticDirectory(settings.decode + settings.prefill, desk, on_up, on_down)

    models = Models(settings.model)
    await models.preload()
    fleet = Fleet(process.worker_id, models, open_directory, process.tls)
    board = BookingBoard(settings.redis_url or NO_REDIS, process.worker_id)
    process.add(fleet)
    if settings.redis_url:
        process.add(board)
    routing = RoutingConfig(
        prefill=Prefill.CHOSEN if settings.remote_prefill else Prefill.LOCAL,
        remote_threshold_tokens=settings.remote_prefill_tokens,
        target_ttft_ms=settings.default_ttft_ms,
        target_itl_ms=settings.default_itl_ms,
    )
    choose = chooser(Routing(settings.routing))
    placer = Placer(fleet, board, routing, settings.worker_wait_seconds, choose)
    limits = Limits(settings.max_requests, settings.max_migrations, settings.worker_wait_seconds)
    tenants = settings.read_tenants()
    admission = Admission(
        FleetPools(
            fleet, board, settings.worker_sequences, settings.target_ttft_seconds, tenants.weight
        ),
        AdmissionSettings(settings.admission, settings.target_ttft_seconds),
        tenants,
    )
    board.share_lines(admission.lines)
    core = Core(fleet, models, placer, limits, admission, lambda: process.is_closed)
    process.on_stop(core.close)
    process.on_drain(core.drained)
    if settings.share_port:
        process.share(settings.listen)
    service = GatewayService(core, settings.max_timeout_seconds, settings.max_session_requests)
    process.register([SERVICE_NAME], service.register)
    process.on_drain(service.drain)
    process.register([explain.SERVICE_NAME], explain.ExplainService(placer.decisions).register)
    inference = kserve.InferenceService(core, settings.max_timeout_seconds, process.draining)
    process.register([kserve.SERVICE_NAME], inference.register)
    if settings.http_listen:
        _add_http(process, settings, core)


def _add_http(process: Process, settings: Settings, core: Core) -> None:
    limits = HttpLimits(
        max_timeout_s=settings.max_timeout_seconds,
        keepalive_s=settings.sse_keepalive_seconds,
        cors_origins=settings.cors_origins,
        replies=ReplySettings(settings.tool_parser, settings.reasoning_parser),
    )
    door = app(core, limits, lambda: process.is_draining)
    http = HttpServer(
        door,
        settings.http_listen,
        receive_s=settings.http_receive_seconds,
        is_shared=settings.share_port,
    )
    process.add(http)
    if settings.share_port:
        process.on_leave(http.leave)
    process.on_drain(http.drain)

    async def tell() -> None:
        log.info("http door is open", address=http.address)

    process.on_ready(tell)


def main() -> None:
    """Runs the gateway; the exit code is 0 behind an orderly end."""
    sys.exit(launch("gateway", Settings, build))


if __name__ == "__main__":
    main()
