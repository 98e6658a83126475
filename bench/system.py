"""Real processes to measure, planned and kept as `baton up` does it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from baton.cli.errors import ProcessFailed
from baton.cli.supervisor import Patience, State, Supervisor
from baton.cli.topology import DEMO_MODEL, ClusterOptions, ProcessSpec, Topology, plan
from baton.rpc.channels import open_channel
from baton.v1 import worker_pb2, worker_pb2_grpc
from bench.failure import BenchFailed
from bench.machine import tree_cpu_seconds, tree_resident_mib

_PATIENCE = Patience(start_s=120.0, grace_s=15.0)
_WORKER_REPLY_S = 10.0


@dataclass(frozen=True, slots=True)
class SystemSpec:
    """What to run: Redis, gateways, decode workers and `prefill` prefill workers."""

    title: str
    prefill: int
    threads: int
    """For arithmetic, per worker."""
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """More flags by kind of process."""
    decode: int = 1
    gateways: int = 1
    kvstores: int = 0
    model: Path = DEMO_MODEL
    engine: str = "model"
    gateway_runner: tuple[str, ...] = ()
    """Module and arguments that run the gateway's module inside; nothing: Python does."""


class System:
    """Running processes, asked for by kind. Where a kind has several, addresses are the first's."""

    def __init__(self, spec: SystemSpec, topology: Topology, supervisor: Supervisor) -> None:
        self.spec = spec
        self._topology = topology
        self._supervisor = supervisor

    def address(self, kind: str = "gateway") -> str:
        """host:port of its gRPC server."""
        return self._topology.of_kind(kind)[0].address

    @property
    def http_address(self) -> str:
        """host:port of the gateway's HTTP door."""
        return self.http_addresses[0]

    @property
    def http_addresses(self) -> tuple[str, ...]:
        """Of the gateways' HTTP door; they share it, and the kernel spreads its connections."""
        return (self._topology.of_kind("gateway")[0].http_address,)

    @property
    def grpc_addresses(self) -> tuple[str, ...]:
        """Of every gateway's gRPC server alone: a few connections would not spread evenly."""
        return tuple(spec.probe_address for spec in self._topology.of_kind("gateway"))

    def metrics_url(self, kind: str) -> str:
        """Its Prometheus endpoint."""
        return f"http://{self._topology.of_kind(kind)[0].metrics_address}/metrics"

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time used since the start, by kind of process, children included."""
        return self._by_kind(tree_cpu_seconds)

    def resident_mib(self) -> dict[str, float]:
        """Memory in use, by kind of process, children included."""
        return self._by_kind(tree_resident_mib)

    def _by_kind(self, measure: Callable[[int], float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for spec in self._topology.processes:
            kind = spec.name.partition("-")[0]
            found[kind] = found.get(kind, 0.0) + measure(self._supervisor.pid(spec.name))
        return found

    async def worker(self, kind: str) -> worker_pb2.GetWorkerResponse:
        """What a worker says of itself now."""
        async with open_channel(self.address(kind)) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            request = worker_pb2.GetWorkerRequest()
            reply: worker_pb2.GetWorkerResponse = await stub.GetWorker(
                request, timeout=_WORKER_REPLY_S
            )
        return reply


@asynccontextmanager
async def running_system(spec: SystemSpec, console: Console) -> AsyncIterator[System]:
    """Starts a system and stops it in the end. A process that falls over ends the benchmark."""
    options = ClusterOptions(
        model=spec.model,
        engine=spec.engine,
        prefill=spec.prefill,
        decode=spec.decode,
        gateways=spec.gateways,
        kvstores=spec.kvstores,
        device="cpu",
        threads=spec.threads,
        port=0,
        http_port=0,
        log_level="warning",
        extra=spec.flags,
    )
    topology = plan(options)
    if spec.gateway_runner:
        topology = _with_runner(topology, spec.gateway_runner)
    task = asyncio.current_task()
    assert task is not None
    quiet = {process.name for process in topology.processes if process.is_quiet}
    watchdog = _Watchdog(spec.title, task, console, quiet)
    supervisor = Supervisor(topology.stages, watchdog, _PATIENCE)
    try:
        await supervisor.start()
        yield System(spec, topology, supervisor)
    except (asyncio.CancelledError, BenchFailed):
        # Whatever a fallen process made fail, its fall is the reason.
        if watchdog.failure:
            raise BenchFailed(watchdog.failure) from None
        raise
    except ProcessFailed as failure:
        raise BenchFailed(f"{spec.title}: {failure}") from failure
    finally:
        watchdog.is_watching = False
        await supervisor.stop()


def _with_runner(topology: Topology, runner: tuple[str, ...]) -> Topology:
    """The gateways as `python -m RUNNER services.gateway FLAGS`."""

    def wrap(spec: ProcessSpec) -> ProcessSpec:
        if not spec.name.startswith("gateway"):
            return spec
        python, flag, *rest = spec.command
        return replace(spec, command=(python, flag, *runner, *rest))

    stages = tuple(tuple(wrap(spec) for spec in stage) for stage in topology.stages)
    return replace(topology, stages=stages)


class _Watchdog:
    """Observer that cancels the benchmark when a process ends under it."""

    def __init__(
        self, title: str, task: asyncio.Task[object], console: Console, quiet: Collection[str]
    ) -> None:
        """`quiet` names processes that chat: their lines are not shown."""
        self.failure = ""
        self.is_watching = True
        self._quiet = quiet
        self._title = title
        self._task = task
        self._console = console

    def on_state(self, name: str, state: State, detail: str = "") -> None:
        """See `Observer`."""
        if state is State.FALLEN and not self.failure:
            self.failure = f"{self._title}: {name} fell over under load ({detail})."
            self._task.cancel()

    def on_line(self, name: str, line: str) -> None:
        """Warnings and worse: whoever reads the numbers should have seen them."""
        if self.is_watching and name not in self._quiet:
            self._console.print(Text(f"{self._title}: {name} | {line}", "yellow"), soft_wrap=True)
