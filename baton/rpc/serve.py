"""The life of a process: listen, get ready, serve, drain, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from baton.errors import BatonError, EngineFailed
from baton.rpc import health, logs, metrics, runtime, telemetry
from baton.rpc.channels import TlsFiles
from baton.rpc.gate import Gate, Phase
from baton.rpc.listening import AddServicer, SharedDoor, bind, own_server
from baton.rpc.settings import ServiceSettings, SettingsT, load
from baton.rpc.status import StatusInterceptor

Hook = Callable[[], Awaitable[None]]

_PROBE_EVERY_S = 1.0
# What a part may take to stop before the others go on without it.
_STOP_LIMIT_S = 10.0

_ALL_INTERFACES = ("0.0.0.0", "[::]")

_log = logs.get_logger(__name__)


class Component(Protocol):
    """A part of a process with a life of its own: a loop, an announcer, an HTTP server."""

    async def start(self) -> None:
        """Gets going; raises BatonError or OSError when that cannot be."""

    async def stop(self) -> None:
        """Ends; called once, also when a later part did not start."""


class _StopHook:
    """A part that has nothing to start."""

    def __init__(self, stop: Hook) -> None:
        self._stop = stop

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Runs the hook."""
        await self._stop()


class Process:
    """A gRPC server with health, reflection and metrics, and the parts that live with it.

    Ports are bound at once, so addresses are known before anything starts. Order of life:

    1. `start`: listen (calls are refused), start the parts in the order of `add`, wait until every
       probe is true, let calls in, health SERVING, run the `on_ready` hooks, log "ready".
    2. Each second: health follows the probes.
    3. `stop`: `draining` is set, health NOT_SERVING, shared addresses are left; after
       `notice_seconds` new calls are refused; `on_drain` hooks and running calls get
       `grace_seconds`, then the rest is cancelled; parts stop in reverse; traces are sent.

    Handlers that stream without end watch `draining` and leave when they have nothing left to say.
    """

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        """Needs a running event loop. Raises OSError when the address is taken."""
        self.settings = settings
        self.tls = TlsFiles.of(settings)
        self.draining = asyncio.Event()
        self._gate = Gate(service)
        # Errors become statuses outside of everything; the gate decides next.
        self._interceptors = (StatusInterceptor(), self._gate)
        self.server = own_server(self._interceptors)
        self.address = _advertised(settings, bind(self.server, settings.own_address, self.tls))
        self.worker_id = settings.worker_id or _default_id(service, self.address)
        wanted = settings.metrics_listen
        self._endpoint = metrics.serve_metrics(wanted) if wanted else None
        self.metrics_address = ""
        if self._endpoint is not None:
            self.metrics_address = _reachable(self._endpoint.address, self.address)
        self._service = service
        self._health = health.Health()
        self._names: list[str] = [health.NAME, reflection.SERVICE_NAME]
        self._parts: list[Component] = []
        self._started: list[Component] = []
        self._probes: list[Callable[[], bool]] = []
        self._servicers: list[AddServicer] = [self._add_health, self._add_reflection]
        self._door: SharedDoor | None = None
        self._ready_hooks: list[Hook] = []
        self._leave_hooks: list[Hook] = []
        self._drain_hooks: list[Hook] = []
        self._watcher: asyncio.Task[None] | None = None
        self._stop_wanted = asyncio.Event()
        self._is_running = False
        self._failure: BaseException | None = None
        self._stopped: asyncio.Task[None] | None = None

    @property
    def is_draining(self) -> bool:
        """Whether the process is on its way out; take no new work then."""
        return self.draining.is_set()

    @property
    def is_closed(self) -> bool:
        """Whether new calls are refused since the process drains and the notice is over."""
        return self._gate.phase is Phase.DRAINING

    @property
    def is_serving(self) -> bool:
        """What the health service answers."""
        return self._health.is_serving

    def share(self, listen: str) -> None:
        """Serves everything there as well, beside other processes, whenever calls are let in."""
        self._door = SharedDoor(listen, self._interceptors, self.tls)

    def register(self, names: Iterable[str], add: AddServicer) -> None:
        """Serves gRPC services by their full names: `add` puts their servicers into a server."""
        names = list(names)
        self._servicers.append(add)
        self._names.extend(names)
        self._health.add(names)

    def add(self, part: Component) -> None:
        """Starts the part with the process, behind those added before; stops it before them."""
        self._parts.append(part)

    def on_stop(self, hook: Hook) -> None:
        """Runs where a part added now would stop."""
        self._parts.append(_StopHook(hook))

    def watch(self, probe: Callable[[], bool]) -> None:
        """Health is SERVING only while every probe is true. Asked each second; must not block."""
        self._probes.append(probe)

    def on_ready(self, hook: Hook) -> None:
        """Runs when calls are let in, before "ready" is logged: announce yourself here."""
        self._ready_hooks.append(hook)

    def on_leave(self, hook: Hook) -> None:
        """Runs as soon as draining begins, before the notice: leave shared addresses here."""
        self._leave_hooks.append(hook)

    def on_drain(self, hook: Hook) -> None:
        """Runs when the notice is over, beside the calls that still run; cancelled with them."""
        self._drain_hooks.append(hook)

    def request_stop(self) -> None:
        """Makes `run` stop the process. Safe from signal handlers of the loop."""
        self._stop_wanted.set()

    def fail(self, error: BaseException) -> None:
        """Makes `run` stop the process and then raise: a part has broken down for good."""
        self._failure = self._failure or error
        self.request_stop()

    def handle_signals(self) -> None:
        """From now on SIGTERM and SIGINT end the process: at once before `run`, with a drain in it.

        The first process of a container ignores both unless it says otherwise.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    async def run(self) -> None:
        """Serves until SIGTERM, SIGINT or `request_stop`. A second signal ends it at once."""
        self.handle_signals()
        self._is_running = True
        wanted = asyncio.create_task(self._stop_wanted.wait())
        starting = asyncio.create_task(self.start())
        try:
            await asyncio.wait({wanted, starting}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
            elif starting.exception() is None:
                await wanted
            await asyncio.gather(starting, return_exceptions=True)
        finally:
            wanted.cancel()
            await self.stop()
        if not starting.cancelled():
            starting.result()
        if self._failure is not None:
            raise EngineFailed(f"stopped after a failure: {self._failure}") from self._failure

    async def start(self) -> None:
        """Brings the process to ready. Raises what a part raises; call `stop` then too."""
        metrics.set_build_info(self._service)
        for add in self._servicers:
            add(self.server)
        await self.server.start()
        for part in self._parts:
            # Known as started before it is: a part that fails halfway is stopped as well.
            self._started.append(part)
            await part.start()
        while not self._is_able():
            await asyncio.sleep(0.02)
        self._gate.phase = Phase.OPEN
        if self._door is not None:
            await self._door.open(self._servicers)
        self._health.set(True)
        self._watcher = asyncio.create_task(self._follow_probes())
        for hook in self._ready_hooks:
            await hook()
        shared = self._door.listen if self._door is not None else ""
        places = {"address": self.address, "shared": shared, "metrics": self.metrics_address}
        _log.info("ready", **{name: place for name, place in places.items() if place})

    async def stop(self) -> None:
        """Drains and stops. Calling it again waits for the same end."""
        if self._stopped is None:
            self._stopped = asyncio.create_task(self._drain_and_stop())
        await asyncio.shield(self._stopped)

    async def _drain_and_stop(self) -> None:
        self.draining.set()
        if self._watcher is not None:
            self._watcher.cancel()
        self._health.set(False)
        if self._gate.phase is Phase.OPEN:
            await self._drain()
        self._gate.phase = Phase.DRAINING
        await _bounded("grpc server", self.server.stop(None))
        if self._door is not None:
            await _bounded("shared door", self._door.stop())
        # Cancelled handlers still run their `finally`; parts stay until they have.
        await _bounded("calls", self._gate.wait_empty())
        for part in reversed(self._started):
            await _bounded(type(part).__name__, part.stop())
        await asyncio.to_thread(telemetry.flush)
        if self._endpoint is not None:
            await asyncio.to_thread(self._endpoint.stop)
        _log.info("stopped")

    async def _drain(self) -> None:
        _log.info(
            "draining", grace_seconds=self.settings.grace_seconds, calls=self._gate.num_active
        )
        await self._leave()
        if self.settings.notice_seconds:
            await asyncio.sleep(self.settings.notice_seconds)
        self._gate.phase = Phase.DRAINING
        ends = [asyncio.ensure_future(hook()) for hook in self._drain_hooks]
        ends.append(asyncio.ensure_future(self._gate.wait_empty()))
        done, late = await asyncio.wait(ends, timeout=self.settings.grace_seconds)
        for end in late:
            end.cancel()
        if late:
            _log.warning("grace is over", calls=self._gate.num_active)
        for end in done:
            if (failure := end.exception()) is not None:
                _log.error("drain hook failed", exc_info=failure)

    async def _leave(self) -> None:
        if self._door is not None:
            limit_s = self.settings.notice_seconds + self.settings.grace_seconds
            await _bounded("shared door", self._door.leave(limit_s))
        for hook in self._leave_hooks:
            await _bounded("leave hook", hook())

    async def _follow_probes(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_EVERY_S)
            is_able = self._is_able()
            if is_able != self._health.is_serving:
                _log.warning("able again" if is_able else "not able to serve")
            self._health.set(is_able)

    def _is_able(self) -> bool:
        return all(probe() for probe in self._probes)

    def _on_signal(self, number: signal.Signals) -> None:
        _log.info("signal", name=number.name)
        # Nothing is served before `run`, and a model that loads in a thread can't be interrupted.
        if self._stop_wanted.is_set() or not self._is_running:
            os._exit(128 + number)
        self.request_stop()

    def _add_health(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)

    def _add_reflection(self, server: grpc.aio.Server) -> None:
        reflection.enable_server_reflection(self._names, server)


def launch(
    service: str,
    settings_type: type[SettingsT],
    build: Callable[[Process, SettingsT], Awaitable[None]],
) -> int:
    """A service's main: settings, logs, traces, `build(process, settings)`, run; the exit code."""
    settings = load(settings_type)
    runtime.allow_connections()

    async def live() -> None:
        process = Process(service, settings)
        logs.configure(
            service, process.worker_id, form=settings.log_format, level=settings.log_level
        )
        process.handle_signals()
        telemetry.setup(f"baton-{service}", process.worker_id)
        await build(process, settings)
        process.on_ready(runtime.settle_memory)
        await process.run()

    try:
        with asyncio.Runner(loop_factory=runtime.loop_factory()) as runner:
            runner.run(live())
    except (BatonError, OSError) as failure:
        print(f"{service}: {failure}", file=sys.stderr)
        return 1
    finally:
        telemetry.shutdown()
    return 0


async def _bounded(name: str, work: Awaitable[object]) -> None:
    try:
        await asyncio.wait_for(work, _STOP_LIMIT_S)
    except TimeoutError:
        _log.error("did not stop in time", part=name, limit_seconds=_STOP_LIMIT_S)
    except Exception:
        _log.exception("did not stop cleanly", part=name)


def _advertised(settings: ServiceSettings, port: int) -> str:
    """The address others use: as given, completed by the port that was bound."""
    if settings.own_address.startswith("unix:"):
        return settings.advertise or settings.own_address
    host = settings.advertise or settings.own_address.rpartition(":")[0]
    if host.count(":") > 1 and not host.startswith("["):
        return f"[{host}]:{port}"  # a bare IPv6 address
    if settings.advertise and ":" in host.rpartition("]")[2]:
        return host
    return f"{_outside_host() if host in _ALL_INTERFACES else host}:{port}"


def _reachable(bound: str, advertised: str) -> str:
    """A second bound address as others use it: on the advertised host when it listens on all."""
    host, _, port = bound.rpartition(":")
    if host not in _ALL_INTERFACES or advertised.startswith("unix:"):
        return bound
    return f"{advertised.rpartition(':')[0]}:{port}"


def _outside_host() -> str:
    """The address of the interface that leads out: what to tell others when listening on all."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # documentation range; a datagram socket sends nothing here
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def _default_id(service: str, address: str) -> str:
    port = address.rpartition(":")[2]
    suffix = port if port.isdecimal() else str(os.getpid())
    return f"{service}-{socket.gethostname()}-{suffix}"
