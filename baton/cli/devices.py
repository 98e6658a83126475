"""Which devices workers get, found without importing torch, which takes seconds."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from baton.cli.errors import CommandError


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the workers run: one entry of `gpus` per worker, none at all on the CPU."""

    device: str
    gpus: tuple[str, ...] = ()
    remark: str = ""
    """What the user should know about the choice; empty: nothing."""


def place_workers(device: str, num_workers: int) -> Placement:
    """Decides for `auto`, `cpu` or `cuda`. Raises CommandError where cuda is asked for in vain."""
    if device == "cpu":
        return Placement("cpu")
    gpus, cuda = visible_gpus(), torch_cuda_version()
    if not gpus or not cuda:
        missing = "no NVIDIA GPU was found" if not gpus else "torch here is a build without CUDA"
        if device == "cuda":
            raise CommandError(f"--device cuda cannot be met: {missing}.")
        return Placement("cpu", remark=f"{missing}, running on the CPU" if gpus else "")
    chosen = tuple(gpus[index % len(gpus)] for index in range(num_workers))
    shared = num_workers > len(gpus)
    remark = f"{num_workers} workers share {len(gpus)} GPU{'s' * (len(gpus) > 1)}" if shared else ""
    return Placement("cuda", chosen, remark)


def visible_gpus() -> Sequence[str]:
    """Names of GPUs for CUDA_VISIBLE_DEVICES; empty where the driver or its library is missing."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name and name != "-1"]
    try:
        import pynvml
    except ImportError:
        return []
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            return [str(index) for index in range(pynvml.nvmlDeviceGetCount())]
        finally:
            pynvml.nvmlShutdown()
    return []


def torch_folder() -> Path | None:
    """Where torch is installed; None: nowhere."""
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def torch_cuda_version() -> str:
    """The CUDA version that torch was built for; empty: a CPU build, or no torch."""
    folder = torch_folder()
    if folder is None or not (folder / "version.py").exists():
        return ""
    match = re.search(r"^cuda\b.*= *'(.+)'", (folder / "version.py").read_text(), re.MULTILINE)
    return match[1] if match else ""


def worker_threads(num_workers: int) -> int:
    """CPU threads for each worker when they share this machine's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // max(1, num_workers))
