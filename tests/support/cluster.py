"""Real processes for cluster tests, on free ports, planned as `baton up` plans them.

    with Cluster(tmp_path, prefill=2) as cluster:
        channel = grpc.insecure_channel(cluster.address("gateway-0"))
        cluster.kill("prefill-0")

Synchronous, for any test: a call blocks until it is done. Start it from the main thread, because
the children end with the thread that started them. Output goes to one file per process, shown when
a test fails.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import grpc
import warm
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.cli.processes import child_environment, tethered
from baton.cli.topology import DEMO_MODEL, ClusterOptions, Probe, ProcessSpec, plan

SHOWN_LINES = 40
# Two cores run everything: one thread each is the fastest a worker can be among others.
# Who computes a prompt must not depend on how busy the machine is: so a fixed rule.
SMALL = {
    "prefill": ["--kv-bytes=32MiB"],
    "decode": ["--kv-bytes=32MiB"],
    "gateway": ["--remote-prefill-tokens=64"],
}


class ClusterFailed(AssertionError):
    """A process did not do what a test relies on; carries the end of its log."""


class Cluster:
    """Owner of the processes: redis, kvstore-0, prefill-0, prefill-1, …, decode-0, gateway-0."""

    live: ClassVar[weakref.WeakSet[Cluster]] = weakref.WeakSet()
    """Clusters whose logs belong to a test that fails now."""

    def __init__(
        self,
        folder: Path,
        *,
        model: Path = DEMO_MODEL,
        engine: str = "model",
        extra: Mapping[str, Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        start_timeout_s: float = 60.0,
        grace_seconds: float = 5.0,
        is_warm: bool = True,
        **counts: int,
    ) -> None:
        """`counts`: prefill, decode, gateways, kvstores, 1 each. `extra`: more flags by kind.

        `is_warm`: processes are forks of one that has imported everything (`warm.py`).

        Workers with `engine="echo"` start fast and answer with the prompt, over and over.
        """
        flags = {kind: [*SMALL.get(kind, ()), *(extra or {}).get(kind, ())] for kind in KINDS}
        options = ClusterOptions(
            model=model,
            device="cpu",
            engine=engine,
            threads=1,
            port=0,
            http_port=0,
            grace_seconds=grace_seconds,
            extra=flags,
            **counts,
        )
        self._folder = folder
        self._environment = {"OMP_NUM_THREADS": "1", **(environment or {})}
        self._start_timeout_s = start_timeout_s
        self._grace_seconds = grace_seconds
        self.topology = plan(options)
        self._specs = {spec.name: spec for spec in self.topology.processes}
        self._is_warm = is_warm and warm.CAN_FORK
        self._processes: dict[str, subprocess.Popen[bytes] | warm.WarmProcess] = {}

    @property
    def names(self) -> list[str]:
        """All processes, in the order of their start."""
        return list(self._specs)

    @property
    def redis_url(self) -> str:
        """Of the Redis that belongs to this cluster."""
        return self.topology.redis_url

    def address(self, name: str = "gateway-0") -> str:
        """host:port of its gRPC server."""
        return self._specs[name].address

    def own_address(self, name: str) -> str:
        """The same of this process alone, where several gateways share an address."""
        return self._specs[name].probe_address

    def http_url(self, name: str = "gateway-0") -> str:
        """Base of a gateway's HTTP door, without /v1."""
        return f"http://{self._specs[name].http_address}"

    def metrics_url(self, name: str) -> str:
        """Its Prometheus endpoint."""
        return f"http://{self._specs[name].metrics_address}/metrics"

    def start(self) -> Self:
        """Starts all; returns when all serve."""
        Cluster.live.add(self)
        try:
            for stage in self.topology.stages:
                for spec in stage:
                    self._spawn(spec)
                for spec in stage:
                    self.wait_ready(spec.name)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """SIGTERM in reverse order; SIGKILL for what outlives its grace."""
        for stage in reversed(self.topology.stages):
            for spec in stage:
                self._signal(spec.name, signal.SIGTERM)
            for spec in stage:
                self._reap(spec.name, self._grace_seconds + 10)
        Cluster.live.discard(self)

    def kill(self, name: str) -> None:
        """kill -9; returns when it is gone."""
        self._signal(name, signal.SIGKILL)
        self._reap(name, 10)

    def terminate(self, name: str) -> int:
        """SIGTERM; returns its exit code."""
        self._signal(name, signal.SIGTERM)
        return self._reap(name, self._grace_seconds + 10)

    def restart(self, name: str) -> None:
        """Starts it again on the same ports, ended or not; returns when it serves."""
        if self.is_running(name):
            self.terminate(name)
        self._spawn(self._specs[name])
        self.wait_ready(name)

    def pause(self, name: str) -> None:
        """SIGSTOP: alive and silent, like a machine that hangs."""
        self._signal(name, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._signal(name, signal.SIGCONT)

    def is_running(self, name: str) -> bool:
        """Whether the process exists."""
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        """The system's number for it."""
        return self._processes[name].pid

    def log(self, name: str) -> str:
        """All it has said, over all its starts."""
        path = self._log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def last_logs(self) -> dict[str, str]:
        """The end of every process's log."""
        return {name: "\n".join(self.log(name).splitlines()[-SHOWN_LINES:]) for name in self._specs}

    def wait_ready(self, name: str) -> None:
        """Returns when it serves. Raises ClusterFailed when it ends first, or is late."""
        spec = self._specs[name]
        deadline = time.monotonic() + self._start_timeout_s
        while not _is_ready(spec):
            if not self.is_running(name):
                code = self._processes[name].returncode
                raise ClusterFailed(f"{name} ended with {code}\n{self.last_logs()[name]}")
            if time.monotonic() > deadline:
                raise ClusterFailed(
                    f"{name} not ready in {self._start_timeout_s} s\n{self.last_logs()[name]}"
                )
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _spawn(self, spec: ProcessSpec) -> None:
        environment = child_environment({**self._environment, **spec.environment})
        with self._log_path(spec.name).open("ab") as log:
            if self._is_warm and spec.probe is not Probe.REDIS:
                self._processes[spec.name] = _start_warm(spec, environment, log.fileno())
                return
            self._processes[spec.name] = subprocess.Popen(
                tethered(spec.command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _signal(self, name: str, number: signal.Signals) -> None:
        if self.is_running(name):
            os.kill(self._processes[name].pid, number)

    def _reap(self, name: str, limit_s: float) -> int:
        process = self._processes.get(name)
        if process is None:
            return 0
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def _log_path(self, name: str) -> Path:
        return self._folder / f"{name}.log"


KINDS = ("gateway", "prefill", "decode", "kvstore")


def _start_warm(spec: ProcessSpec, environment: Mapping[str, str], log: int) -> warm.WarmProcess:
    _, dash_m, module, *arguments = spec.command
    assert dash_m == "-m"
    return warm.start(module, arguments, environment, log)


def _is_ready(spec: ProcessSpec) -> bool:
    host, _, port = spec.probe_address.rpartition(":")
    try:
        with closing(socket.create_connection((host, int(port)), timeout=1.0)) as link:
            if spec.probe is Probe.REDIS:
                link.sendall(b"PING\r\n")
                return link.recv(16).startswith(b"+PONG")
    except OSError:
        return False
    with grpc.insecure_channel(spec.probe_address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=2.0
            )
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
