"""NVIDIA Dynamo's front end with its mock engine, when somebody has installed it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from baton.cli.ports import PortPicker
from baton.cli.processes import ChildProcess
from baton.cli.topology import ProcessSpec
from bench.failure import BenchFailed
from bench.frontdoor.cells import Group
from bench.frontdoor.messages import Door
from bench.frontdoor.targets import CONTEXT_LEN
from bench.machine import tree_cpu_seconds, tree_resident_mib

_READY_S = 60.0
_GRACE_S = 5.0
_LOOK_S = 0.01
_PLANES = ("--discovery-backend=file", "--request-plane=tcp", "--event-plane=zmq")
_VERSION = "from importlib.metadata import version as v; import dynamo._core; print(v('ai-dynamo'))"


@dataclass(frozen=True, slots=True)
class Peer:
    """An installation of it, and how its front end routes."""

    python: Path
    version: str
    router: str

    @property
    def title(self) -> str:
        """Its name in tables."""
        return f"Dynamo {self.version}, {self.router}"


def find_peer(venv: Path, router: str) -> Peer | str:
    """The peer in a virtual environment, or why there is none."""
    python = venv / "bin" / "python"
    if not python.is_file():
        return f"{python} is missing"
    found = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True, check=False)
    if found.returncode:
        return f"{python} cannot import it: {found.stderr.strip().splitlines()[-1]}"
    return Peer(python, found.stdout.strip(), router)


@dataclass(slots=True)
class RunningPeer:
    """Its processes, under the names of ours."""

    title: str
    http_address: str
    began: float = field(default_factory=time.monotonic)
    children: list[ChildProcess] = field(default_factory=list)

    def addresses(self, door: Door) -> tuple[str, ...]:
        """See `Target`. Its gRPC door speaks another protocol."""
        return (self.http_address,) if door.is_http else ()

    def cpu_seconds(self) -> dict[str, float]:
        """See `Target`."""
        used: dict[str, float] = {}
        for child in self.children:
            kind = child.spec.name
            used[kind] = used.get(kind, 0.0) + tree_cpu_seconds(child.pid)
        return used

    def resident_mib(self) -> dict[str, float]:
        """See `Target`."""
        used: dict[str, float] = {}
        for child in self.children:
            kind = child.spec.name
            used[kind] = used.get(kind, 0.0) + tree_resident_mib(child.pid)
        return used


@asynccontextmanager
async def running_peer(peer: Peer, group: Group, model: Path) -> AsyncIterator[RunningPeer]:
    """Workers without engine time and a front end with its fastest tokenizer."""
    ports = PortPicker("127.0.0.1")
    running = RunningPeer(peer.title, f"127.0.0.1:{ports.pick()}")
    with tempfile.TemporaryDirectory() as state:
        environment = {"DYN_FILE_KV": state, "DYN_LOG": "warn", "HF_HUB_OFFLINE": "1"}
        # Its interpreter must not find our packages.
        environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        async with AsyncExitStack() as stack:
            for name, command in _commands(peer, group, model, running.http_address, ports):
                spec = ProcessSpec(name, tuple(command), "", environment=environment)
                child = ChildProcess(spec, lambda name, line: None)
                await child.start()
                stack.push_async_callback(child.stop, _GRACE_S)
                running.children.append(child)
            await _wait_until_ready(running, model.name)
            yield running


def _commands(
    peer: Peer, group: Group, model: Path, http_address: str, ports: PortPicker
) -> list[tuple[str, Sequence[str]]]:
    mocker = [str(peer.python), "-m", "dynamo.mocker", f"--model-path={model}"]
    mocker += [f"--model-name={model.name}", *_PLANES, "--block-size=16"]
    # Not 0: that is documented as no time at all, and makes every request wait for 20 ms.
    mocker += ["--speedup-ratio=1000000"]
    mocker += ["--num-gpu-blocks-override=80000", f"--max-model-len={CONTEXT_LEN}"]
    decode = ["--disaggregation-mode=decode"] if group.prefill else []
    # Its KV-transfer time is emulated too unless it is told not to.
    prefill = ["--disaggregation-mode=prefill", "--kv-transfer-bandwidth=0"]
    host, _, port = http_address.rpartition(":")
    frontend = [str(peer.python), "-m", "dynamo.frontend", f"--http-host={host}"]
    frontend += [f"--http-port={port}", *_PLANES, f"--router-mode={peer.router}"]
    frontend += ["--tokenizer=fastokens"]
    return [
        *(("decode", [*mocker, *decode]) for _ in range(group.decode)),
        *(
            ("prefill", [*mocker, *prefill, f"--bootstrap-ports={ports.pick()}"])
            for _ in range(group.prefill)
        ),
        ("gateway", frontend),
    ]


async def _wait_until_ready(running: RunningPeer, model: str) -> None:
    """Until it answers a request."""
    deadline = time.monotonic() + _READY_S
    body = {"model": model, "prompt": "a", "max_tokens": 1, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://{running.http_address}/v1/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    while time.monotonic() < deadline:
        for child in running.children:
            if child.exit_code is not None:
                lines = "\n".join(list(child.last_lines)[-5:])
                raise BenchFailed(f"{running.title}: {child.spec.name} ended early: {lines}")
        try:
            with await asyncio.to_thread(urllib.request.urlopen, request, None, _READY_S):
                return
        except (OSError, urllib.error.URLError):
            await asyncio.sleep(_LOOK_S)
    raise BenchFailed(f"{running.title} answered nothing within {_READY_S:.0f} s.")
