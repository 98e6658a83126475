"""What runs: options of a cluster on one machine, turned into the commands of its processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from baton.cli.devices import Placement, place_workers, worker_threads
from baton.cli.ports import PortPicker
from baton.registry.embedded import server_command

ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = ROOT / "examples" / "demo_model"
STEP_TIMES = ROOT / "examples" / "step_times.csv"
GRPC_PORT, HTTP_PORT = 8500, 8000
NOTICE_S = 0.25
"""A gateway that leaves a shared port serves so long what its connections still bring."""


class Probe(Enum):
    """How a process shows that it is ready."""

    HEALTH = "grpc health"
    REDIS = "redis ping"


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: how to start it and how to know that it is ready."""

    name: str
    command: tuple[str, ...]
    address: str
    """host:port for clients; for all but Redis the gRPC address."""
    probe: Probe = Probe.HEALTH
    environment: Mapping[str, str] = field(default_factory=dict)
    own_address: str = ""
    """host:port of this process alone where others share `address`; empty: nobody does."""
    metrics_address: str = ""
    http_address: str = ""
    is_quiet: bool = False
    """Whether its lines are of interest only when it fails."""

    @property
    def probe_address(self) -> str:
        """host:port that the probe asks."""
        return self.own_address or self.address


Stage = tuple[ProcessSpec, ...]
"""Processes that start side by side; the next stage waits until all of them are ready."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What `baton up` was asked for. Port 0 means any free one; `threads` 0: an equal share."""

    model: Path = DEMO_MODEL
    prefill: int = 1
    decode: int = 1
    gateways: int = 1
    kvstores: int = 1
    kvstore_disk: Path | None = None
    """Folder of the stores' disk tiers, one below it for each; none: memory only."""
    kvstore_disk_bytes: str = "8GiB"
    """Of each store's disk tier."""
    device: str = "auto"
    engine: str = "model"
    step_times: Path = STEP_TIMES
    """Of emulated engines."""
    redis_url: str = ""
    host: str = "127.0.0.1"
    port: int = GRPC_PORT
    http_port: int = HTTP_PORT
    threads: int = 0
    grace_seconds: float = 5.0
    log_format: str = "terminal"
    log_level: str = "info"
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """More flags by kind of process: `gateway`, `prefill`, `decode`, `kvstore`."""


@dataclass(frozen=True, slots=True)
class Topology:
    """All processes in the order of their start, and what a user wants to know about them."""

    stages: tuple[Stage, ...]
    redis_url: str
    device: str
    remark: str = ""

    @property
    def processes(self) -> list[ProcessSpec]:
        """All of them, in the order of their start."""
        return [spec for stage in self.stages for spec in stage]

    def of_kind(self, kind: str) -> list[ProcessSpec]:
        """Those whose names begin so: `gateway`, `prefill`, `decode`, `kvstore`, `redis`."""
        return [spec for spec in self.processes if spec.name.partition("-")[0] == kind]


def plan(options: ClusterOptions) -> Topology:
    """Chooses ports and devices and writes the commands."""
    return _Planner(options).plan()


class _Planner:
    """The making of one topology."""

    def __init__(self, options: ClusterOptions) -> None:
        self._options = options
        self._ports = PortPicker(options.host)
        self._redis_url = options.redis_url

    def plan(self) -> Topology:
        options = self._options
        # Only the model's engine knows devices.
        device = options.device if options.engine == "model" else "cpu"
        placement = place_workers(device, options.prefill + options.decode)
        stages: list[Stage] = []
        if not self._redis_url:
            stages.append((self._redis(),))
        kvstores = tuple(self._kvstore(index) for index in range(options.kvstores))
        stages.append(kvstores)
        stages.append(self._workers(placement, [spec.address for spec in kvstores]))
        stages.append(self._gateways())
        filled = tuple(stage for stage in stages if stage)
        return Topology(filled, self._redis_url, placement.device, placement.remark)

    def _redis(self) -> ProcessSpec:
        port = self._ports.pick()
        address = f"127.0.0.1:{port}"
        self._redis_url = f"redis://{address}/0"
        is_quiet = self._options.log_level != "debug"
        command = tuple(server_command(port))
        return ProcessSpec("redis", command, address, Probe.REDIS, is_quiet=is_quiet)

    def _kvstore(self, index: int) -> ProcessSpec:
        options, flags = self._options, []
        if options.kvstore_disk is not None:
            folder = options.kvstore_disk / f"kvstore-{index}"
            flags = ["--disk", str(folder), "--disk-bytes", options.kvstore_disk_bytes]
        return self._service("kvstore", index, flags)

    def _workers(self, placement: Placement, kvstores: list[str]) -> Stage:
        options = self._options
        num_workers = options.prefill + options.decode
        threads = options.threads or worker_threads(num_workers)
        flags = ["--model", str(options.model), "--device", placement.device]
        flags += ["--threads", str(threads), "--engine", options.engine]
        if options.engine == "emulated":
            flags += ["--step-times", str(options.step_times)]
        if kvstores:
            flags += ["--kvstore", ",".join(kvstores)]
        names = [("prefill", index) for index in range(options.prefill)]
        names += [("decode", index) for index in range(options.decode)]
        gpus = placement.gpus or ("",) * num_workers
        return tuple(
            self._service(kind, index, flags, {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
            for (kind, index), gpu in zip(names, gpus, strict=True)
        )

    def _gateways(self) -> Stage:
        """One has its ports to itself; several share them."""
        options = self._options
        grpc, http = (
            f"{options.host}:{port or self._pick()}" for port in (options.port, options.http_port)
        )
        flags = ["--model", str(options.model), "--http-listen", http]
        if options.gateways == 1:
            return (replace(self._service("gateway", 0, flags, address=grpc), http_address=http),)
        return tuple(
            self._sharing_gateway(index, flags, grpc, http) for index in range(options.gateways)
        )

    def _sharing_gateway(self, index: int, flags: list[str], grpc: str, http: str) -> ProcessSpec:
        own = f"{self._options.host}:{self._pick()}"
        flags = [*flags, "--share-port", "--own-listen", own, "--notice-seconds", f"{NOTICE_S:g}"]
        spec = self._service("gateway", index, flags, address=grpc)
        return replace(spec, own_address=own, http_address=http)

    def _service(
        self,
        kind: str,
        index: int,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        address: str = "",
    ) -> ProcessSpec:
        options, name = self._options, f"{kind}-{index}"
        address = address or f"{options.host}:{self._pick()}"
        metrics = f"{options.host}:{self._pick()}"
        common = ["--listen", address, "--metrics-listen", metrics, "--worker-id", name]
        common += ["--redis-url", self._redis_url, "--grace-seconds", f"{options.grace_seconds:g}"]
        common += ["--log-format", options.log_format, "--log-level", options.log_level]
        command = (sys.executable, "-m", f"services.{kind}", *common, *flags)
        return ProcessSpec(
            name,
            (*command, *options.extra.get(kind, ())),
            address,
            environment=environment or {},
            metrics_address=metrics,
        )

    def _pick(self) -> int:
        return self._ports.pick()
