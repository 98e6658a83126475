"""The engines that take part, each a child process that answers one question at a time."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.failure import BenchFailed

_ROOT = Path(__file__).resolve().parents[2]
_ANSWER_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class SubjectSpec:
    """One engine, and how to start it."""

    title: str
    command: tuple[str, ...]


def our_subjects() -> list[SubjectSpec]:
    """Baton as it comes, in other forms of weights, and with one thing after another left out."""
    ours = (sys.executable, "-m", "bench.engine.ours")
    return [
        SubjectSpec(BASE, ours),
        SubjectSpec("Baton, bfloat16 weights", (*ours, "--weights", "bfloat16")),
        SubjectSpec("Baton, int8 weights", (*ours, "--weights", "int8")),
        SubjectSpec("Baton, a call per op", (*ours, "--op-by-op")),
        SubjectSpec("Baton without native kernels", (*ours, "--torch-ops")),
    ]


BASE = "Baton"
TRANSFORMERS = SubjectSpec("transformers", (sys.executable, "-m", "bench.engine.transformers_peer"))


def openvino(venv: Path) -> SubjectSpec:
    """OpenVINO GenAI from a virtual environment."""
    script = Path(__file__).with_name("openvino_peer.py")
    return SubjectSpec("OpenVINO GenAI", (str(venv / "bin" / "python"), str(script)))


class RunningSubject:
    """A child, from its start until `stop`."""

    def __init__(self, title: str, process: asyncio.subprocess.Process) -> None:
        self.title = title
        self._process = process

    @classmethod
    async def start(cls, spec: SubjectSpec, model: Path, threads: int) -> RunningSubject:
        """Starts one and waits until it has loaded the model."""
        process = await asyncio.create_subprocess_exec(
            *spec.command,
            *("--model", str(model), "--threads", str(threads)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=_ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
            limit=_ANSWER_BYTES,
        )
        subject = cls(spec.title, process)
        await subject._read()
        return subject

    async def prefill(self, prompt: Sequence[int]) -> float:
        """Milliseconds to the first token."""
        return float(await self._ask(op="prefill", prompt=prompt))

    async def decode(
        self, prompts: Sequence[Sequence[int]], num_tokens: int
    ) -> tuple[list[float], list[list[int]]]:
        """Milliseconds of each step in which all sequences decode, and what they draw."""
        steps, tokens = await self._ask(op="decode", prompts=prompts, num_tokens=num_tokens)
        return steps, tokens

    async def stop(self) -> None:
        """Ends the child."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), timeout=10)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._read()

    async def _read(self) -> Any:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise BenchFailed(f"{self.title} ended; start its command by hand to see why.")
        return json.loads(line)
