"""Systems under test, and the folder of a model that takes prompts as long as ours."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console

from baton.cli.topology import DEMO_MODEL
from baton.engine.step_times import AXES, VALUE
from bench.frontdoor.cells import REMOTE_PREFILL_TOKENS, Group
from bench.frontdoor.messages import Door
from bench.system import System, SystemSpec, running_system

CONTEXT_LEN = 32768
STEP_TIMES = "step_times.csv"
MAX_BATCH_TOKENS = 8192
"""The peer's default, for both: two steps for the longest prompt."""


class Target(Protocol):
    """A running system with one front end. Processes go by the names of ours."""

    @property
    def title(self) -> str:
        """Its name in tables."""

    @property
    def began(self) -> float:
        """When its start was ordered; monotonic."""

    def addresses(self, door: Door) -> tuple[str, ...]:
        """Where a door is; nothing where it has none."""

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time since the start, by kind of process."""

    def resident_mib(self) -> dict[str, float]:
        """Memory in use, by kind of process."""


@dataclass(frozen=True, slots=True)
class Options:
    """How our systems are to run."""

    engine: str
    """Of the workers, as `baton up` names it."""
    gateways: int = 1
    kvstores: int = 0
    profile: Path | None = None
    """Folder for the gateways' profiles; none: not profiled."""

    def profile_path(self, group: Group) -> Path | None:
        """Where a group's gateway writes its profile."""
        return self.profile / f"frontdoor-profile-{group.name}.txt" if self.profile else None


@dataclass(frozen=True, slots=True)
class Baton:
    """Ours."""

    system: System
    began: float
    title: str = "Baton"

    def addresses(self, door: Door) -> tuple[str, ...]:
        """See `Target`."""
        return self.system.http_addresses if door.is_http else self.system.grpc_addresses

    def cpu_seconds(self) -> dict[str, float]:
        """See `Target`."""
        return self.system.cpu_seconds()

    def resident_mib(self) -> dict[str, float]:
        """See `Target`."""
        return self.system.resident_mib()


@asynccontextmanager
async def running_baton(
    group: Group, options: Options, model: Path, console: Console
) -> AsyncIterator[Baton]:
    """Our processes for a group."""
    worker = [f"--max-batch-tokens={MAX_BATCH_TOKENS}"]
    engine = options.engine
    if group.step_us:
        engine = "emulated"
        times = model / STEP_TIMES
        times.write_text(f"{','.join((*AXES, VALUE))}\n0,0,0,{group.step_us}\n")
        worker.append(f"--step-times={times}")
    # Every request is answered, as the peer does: 64 clients that wait for long are no overload.
    gateway = [f"--remote-prefill-tokens={REMOTE_PREFILL_TOKENS}", "--target-ttft-seconds=0"]
    profile = options.profile_path(group)
    spec = SystemSpec(
        title=group.name,
        prefill=group.prefill,
        threads=1,
        flags={"decode": worker, "prefill": worker, "gateway": gateway},
        decode=group.decode,
        gateways=options.gateways,
        kvstores=options.kvstores,
        model=model,
        engine=engine,
        gateway_runner=("bench.sampler", str(profile)) if profile else (),
    )
    began = time.monotonic()
    async with running_system(spec, console) as system:
        yield Baton(system, began)


def write_model(folder: Path) -> None:
    """The demo model with a longer context; its weights stay where they are."""
    for name in ("generation_config.json", "tokenizer.json"):
        shutil.copy(DEMO_MODEL / name, folder / name)
    changes = {
        "config.json": {"max_position_embeddings": CONTEXT_LEN},
        "tokenizer_config.json": {"model_max_length": CONTEXT_LEN},
    }
    for name, values in changes.items():
        text = (DEMO_MODEL / name).read_text()
        (folder / name).write_text(json.dumps(json.loads(text) | values))
    (folder / "model.safetensors").symlink_to(DEMO_MODEL / "model.safetensors")
