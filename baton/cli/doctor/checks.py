"""The checks, in the order in which a broken machine is best repaired."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path

from baton.cli.devices import torch_cuda_version, visible_gpus
from baton.cli.doctor.finding import Finding, Grade
from baton.cli.ports import is_free
from baton.errors import BatonError, ModelError
from baton.registry.embedded import RedisNotFound, find_server
from baton.registry.urls import parse_redis_url

_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 11), (3, 13)
_OLDEST_TORCH, _NEWEST_TORCH = (2, 11), (2, 13)
# A CPU worker's arena lies in shared memory; its default size is 256 MiB.
_SHARED_MEMORY_BYTES = 600 << 20
_SHARED_MEMORY = Path("/dev/shm")


def check_python() -> list[Finding]:
    """Version, and whether `baton`, `services` and `kernels` are the repository's own."""
    version = sys.version_info[:2]
    shown = f"Python {sys.version.split()[0]} at {sys.executable}"
    if not _OLDEST_PYTHON <= version <= _NEWEST_PYTHON:
        return [Finding(Grade.FAIL, shown, "Baton needs Python 3.11 to 3.13; use one of those.")]
    return [Finding(Grade.OK, shown)]


def check_ports(ports: dict[str, int]) -> list[Finding]:
    """Whether a gateway could listen where it does by default."""
    findings = []
    for flag, port in ports.items():
        if is_free(port):
            findings.append(Finding(Grade.OK, f"{port} is free"))
        else:
            advice = f"A gateway may be running already; else give `baton up {flag}` another port."
            findings.append(Finding(Grade.WARN, f"{port} is taken", advice))
    return findings


def check_redis(redis_url: str) -> list[Finding]:
    """A server to start, or the one that was named."""
    if redis_url:
        return [_ping(redis_url)]
    try:
        server = find_server()
    except RedisNotFound as error:
        return [Finding(Grade.FAIL, "no server", f"{error}.")]
    result = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10)
    if result.returncode:
        return [Finding(Grade.FAIL, f"{server} does not run: {result.stderr.strip()[:200]}")]
    version = next((word[2:] for word in result.stdout.split() if word[:2] == "v="), "unknown")
    return [Finding(Grade.OK, f"server {version} at {server}")]


def _ping(redis_url: str) -> Finding:
    try:
        place = parse_redis_url(redis_url)
    except ValueError as error:
        return Finding(Grade.FAIL, f"{redis_url} names no Redis: {error}")
    if "path" in place.options:
        return Finding(Grade.OK, f"{place.options['path']} is a socket; not asked")
    servers = place.sentinels or (
        (place.options.get("host", "localhost"), place.options.get("port", 6379)),
    )
    findings = [_ping_one(host, port, redis_url) for host, port in servers]
    # One sentinel is enough.
    return min(findings, key=lambda finding: finding.grade is not Grade.OK)


def _ping_one(host: str, port: int, redis_url: str) -> Finding:
    place = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=3) as link:
            if redis_url.startswith("rediss"):
                return Finding(Grade.OK, f"{place} listens; TLS is not tried")
            link.sendall(b"PING\r\n")
            reply = link.recv(64)
    except OSError as error:
        advice = "Start it, or leave --redis-url out: Baton then starts a server of its own."
        return Finding(Grade.FAIL, f"{place} does not answer: {error}", advice)
    # A server that wants a password says so, and is alive.
    if reply.startswith((b"+PONG", b"-NOAUTH")):
        return Finding(Grade.OK, f"{place} answers")
    return Finding(Grade.FAIL, f"{place} is no Redis: it answered {reply[:40]!r}")


def check_shared_memory() -> list[Finding]:
    """Room for the arenas that workers of one machine share."""
    if not _SHARED_MEMORY.is_dir():
        advice = "Hand-offs go through gRPC instead, which is slower."
        return [Finding(Grade.WARN, f"{_SHARED_MEMORY} does not exist", advice)]
    free = shutil.disk_usage(_SHARED_MEMORY).free
    shown = f"{free >> 20:,} MiB free in {_SHARED_MEMORY}"
    if not os.access(_SHARED_MEMORY, os.W_OK):
        return [Finding(Grade.WARN, f"{_SHARED_MEMORY} is not writable", "Hand-offs use gRPC.")]
    if free < _SHARED_MEMORY_BYTES:
        advice = (
            f"Two CPU workers want {_SHARED_MEMORY_BYTES >> 20} MiB; without, hand-offs use gRPC. "
            "In a container give it more (`--shm-size 1g`), or workers less (`--kv-bytes 64MiB`)."
        )
        return [Finding(Grade.WARN, shown, advice)]
    return [Finding(Grade.OK, shown)]


def check_gpus() -> list[Finding]:
    """What the driver reports."""
    gpus = visible_gpus()
    if not gpus:
        return [Finding(Grade.OK, "no NVIDIA GPU found; workers run on the CPU")]
    import pynvml

    pynvml.nvmlInit()
    try:
        return [_describe_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _describe_gpu(index: int) -> Finding:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    text = f"{index}: {name}, {memory.free >> 30} of {memory.total >> 30} GiB free"
    if memory.free < memory.total // 2:
        return Finding(Grade.WARN, text, "Another process holds more than half of its memory.")
    return Finding(Grade.OK, text)


def check_torch() -> list[Finding]:
    """Version, build, and whether it fits the GPU."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        advice = "Gateway and kvstore run without it; workers need it: `make install`."
        return [Finding(Grade.FAIL, "torch is not installed", advice)]
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    build = f"for CUDA {torch_cuda_version()}" if torch_cuda_version() else "for CPUs"
    shown = f"torch {version}, {build}"
    if not _OLDEST_TORCH <= numbers <= _NEWEST_TORCH:
        return [Finding(Grade.WARN, shown, "Baton is tested with torch 2.11 to 2.13.")]
    if visible_gpus() and not torch_cuda_version():
        advice = "The GPU stays idle; install a CUDA build of torch to use it."
        return [Finding(Grade.WARN, shown, advice)]
    return [Finding(Grade.OK, shown)]


def check_kernels() -> list[Finding]:
    """Runs each op's smallest case against its reference, as workers do before they are ready."""
    try:
        import torch

        import kernels
    except ImportError as error:
        return [Finding(Grade.FAIL, f"cannot be imported: {error}", "Run `make install`.")]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ops = kernels.load(device)
    except (ValueError, RuntimeError) as error:
        advice = "BATON_KERNELS=reference runs without the fast ones."
        return [Finding(Grade.FAIL, f"self-check on {device} failed: {error}", advice)]
    chosen = ", ".join(f"{op} {name}" for op, name in ops.chosen.items() if name != "reference")
    findings = [
        Finding(Grade.OK, f"{len(ops.chosen)} ops agree with their references on {device}"),
        Finding(Grade.OK, f"faster than the reference: {chosen or 'none'}"),
    ]
    if device == "cpu" and not ops.is_native:
        advice = "They are several times faster: install g++, or look at BATON_KERNELS."
        findings.append(Finding(Grade.WARN, "native kernels do not run", advice))
    return findings


def check_model(folder: Path) -> list[Finding]:
    """Whether the folder holds what gateway and workers read."""
    advice = "--model names a Hugging Face folder: config.json, *.safetensors, tokenizer.json."
    if not folder.is_dir():
        return [Finding(Grade.FAIL, f"{folder} is not a folder", advice)]
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        missing.append("*.safetensors")
    if missing:
        return [Finding(Grade.FAIL, f"{folder} lacks {', '.join(missing)}", advice)]
    size = sum(path.stat().st_size for path in weights)
    return [
        Finding(Grade.OK, f"{folder}: {len(weights)} files of weights, {size / 1e6:,.1f} MB"),
        _check_architecture(folder),
        _check_text(folder),
    ]


def _check_architecture(folder: Path) -> Finding:
    try:
        from baton.engine.model.config import read_config
    except ImportError as error:
        return Finding(Grade.WARN, f"architecture not checked: {error}", "Run `make install`.")
    try:
        config = read_config(folder)
    except ModelError as error:
        return Finding(Grade.FAIL, str(error))
    return Finding(Grade.OK, f"architecture {config.architecture} is supported")


def _check_text(folder: Path) -> Finding:
    try:
        from baton.text import load_text
    except ImportError as error:
        return Finding(Grade.FAIL, f"tokenizer cannot be read: {error}", "Run `make install`.")
    try:
        text = load_text(folder)
        num_tokens = len(text.encode("What is a process?"))
    except ModelError as error:
        return Finding(Grade.FAIL, str(error))
    try:
        text.render_chat([{"role": "user", "content": "What is a process?"}])
    except BatonError as error:
        advice = "It serves plain text; `baton generate --raw` continues it."
        return Finding(Grade.WARN, f"tokenizer works, chat does not: {error}", advice)
    return Finding(Grade.OK, f"tokenizer works ({num_tokens} tokens for a question), so does chat")
