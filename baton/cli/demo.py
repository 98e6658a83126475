"""`baton demo`: five processes, one question, one answer, and who did what."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from baton.cli.answer import stream_answer, summarize
from baton.cli.ask import write
from baton.cli.errors import CommandError
from baton.cli.running import prepare, run_until_signal, running
from baton.cli.topology import DEMO_MODEL, ClusterOptions, Topology
from baton.client import AsyncClient, Sampling

QUESTION = "What should I know about a Python generator?"
# The demo model's own; other models' chat templates may know no system role.
_SYSTEM = "You are Baton's demo model."
_TIMEOUT_S = 120.0
# Short as the prompt is, it is computed in one process, the answer in another. (Less than a block
# is computed where it is needed: asking for it would take longer.)
_FLAGS = {"gateway": ["--remote-prefill-tokens=0"]}


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `baton demo` was asked for."""

    question: str
    model: Path
    device: str
    engine: str
    step_times: Path
    max_tokens: int
    threads: int
    is_verbose: bool


def run_demo(options: DemoOptions) -> int:
    """Returns exit code 0 only if text came."""
    started = time.monotonic()
    console = Console(highlight=False)
    cluster = ClusterOptions(
        model=options.model,
        device=options.device,
        engine=options.engine,
        step_times=options.step_times,
        threads=options.threads,
        port=0,
        http_port=0,
        extra=_FLAGS,
    )
    topology = prepare(cluster)

    async def live() -> int:
        console.print(f"Starting {len(topology.processes)} processes on this machine")
        if topology.remark:
            console.print(f"note: {topology.remark}", style="yellow", markup=False)
        async with running(cluster, topology, console, show_lines=options.is_verbose):
            await _ask(options, topology, console, started)
            stopping = time.monotonic()
        console.print(f"\nall processes stopped in {time.monotonic() - stopping:.1f} s")
        console.print("next: `make up`, then `.venv/bin/baton chat` in another terminal")
        return 0

    return run_until_signal(live)


async def _ask(options: DemoOptions, topology: Topology, console: Console, started: float) -> None:
    question = options.question or QUESTION
    console.print(f"\n> {question}\n", style="bold", markup=False)
    sampling = Sampling(max_tokens=options.max_tokens, temperature=0.0)
    async with AsyncClient(topology.of_kind("gateway")[0].address) as client:
        messages = [{"role": "user", "content": question}]
        if options.model == DEMO_MODEL:
            messages.insert(0, {"role": "system", "content": _SYSTEM})
        asked = time.monotonic()
        events = client.generate(messages, sampling, timeout_s=_TIMEOUT_S)
        answer = await stream_answer(events, write)
    write("\n\n")
    if not answer.text.strip():
        raise CommandError(
            f"the model answered with {answer.final.num_output_tokens} tokens and no text."
        )
    console.print(summarize(answer))
    to_first_token = asked - started + answer.first_token_s
    console.print(f"\n{to_first_token:.1f} s from the command to the first token")
