"""Hand-off: how fast blocks move by transport, at what CPU cost, and how much of it is hidden."""

from __future__ import annotations

import asyncio
import random
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from baton.blocks import KvLayout
from baton.request import PrefillMode
from baton.transfer.push import PushJob
from bench.arms import Arm
from bench.child import Child
from bench.client import GatewayClient, Prompts, Reply
from bench.failure import BenchFailed
from bench.messages import (
    AwaitBlocks,
    CopyAll,
    DescribeArena,
    Expect,
    MapArena,
    OpenStream,
    Push,
    Sums,
)
from bench.options import Run, worker_threads
from bench.report import Cell, Table
from bench.stats import milliseconds, percentile, ratio
from bench.system import System, SystemSpec, running_system

LAYOUTS = {
    "demo model, float32": KvLayout(16, 5, 2, 64, "float32", "bench"),
    "8B-like: 36 layers, 8 KV heads of 128, bfloat16": KvLayout(16, 36, 8, 128, "bfloat16", "b"),
}
BLOCKS_PER_JOB = 32
"""512 tokens: what one full step of prefill makes final."""
LONG_PROMPT_LEN = 1536
_ROUNDS, _QUICK_ROUNDS = 5, 2
_SYSTEM_PROMPTS, _QUICK_SYSTEM_PROMPTS = 10, 2


@dataclass(slots=True)
class _Seen:
    """One way of moving an arena's bytes, over all rounds."""

    bytes_per_s: list[float] = field(default_factory=list)
    cpu_s_per_byte: list[float] = field(default_factory=list)

    def add(self, num_bytes: int, wall_s: float, cpu_s: float) -> None:
        self.bytes_per_s.append(num_bytes / wall_s)
        self.cpu_s_per_byte.append(cpu_s / num_bytes)


async def run(run: Run) -> list[Table]:
    """Bare transports between two processes, then hand-offs of the whole system."""
    num_rounds = run.size(_ROUNDS, _QUICK_ROUNDS)
    run.steps.begin("handoff", len(LAYOUTS) * (1 + num_rounds) + 4)
    rows: list[tuple[Cell, ...]] = []
    for title, layout in LAYOUTS.items():
        rows += await _move(run, title, layout, num_rounds)
    return [_transport_table(rows), await _measure_hidden(run)]


async def _move(run: Run, title: str, layout: KvLayout, num_rounds: int) -> list[tuple[Cell, ...]]:
    working_set = run.size(192 << 20, 96 << 20)
    num_jobs = max(1, round(working_set / layout.block_bytes / BLOCKS_PER_JOB))
    num_blocks = num_jobs * BLOCKS_PER_JOB
    run.steps.next(f"{title}: preparing {num_blocks * layout.block_bytes >> 20} MiB")
    async with (
        Child("bench.handoff_peers", "serve_source", layout, num_blocks) as source,
        Child("bench.handoff_peers", "serve_target", layout, num_blocks) as target,
    ):
        pair = _Pair(source, target, layout, num_blocks)
        await pair.connect()
        await pair.play_round(is_warm_up=True)
        for number in range(1, num_rounds + 1):
            run.steps.next(f"{title}: round {number}")
            await pair.play_round()
    return [pair.row(title, how) for how in pair.seen]


class _Pair:
    """A source and a target, and what was seen between them."""

    def __init__(self, source: Child, target: Child, layout: KvLayout, num_blocks: int) -> None:
        self._source, self._target = source, target
        self._layout, self._num_blocks = layout, num_blocks
        self._num_bytes = num_blocks * layout.block_bytes
        self._session_id = 0
        self.seen = {
            how: _Seen() for how in ("plain copy", "shm, in a row", "shm, scattered", "grpc")
        }

    async def connect(self) -> None:
        """Maps the target's arena and opens the stream."""
        arena = await self._target.ask(DescribeArena())
        address = await self._source.ask(MapArena(arena))
        await self._target.ask(OpenStream(address))

    async def play_round(self, *, is_warm_up: bool = False) -> None:
        """All ways once, in turn; the first round finds pages that were never touched."""
        in_a_row = tuple(range(self._num_blocks))
        span = await self._source.ask(CopyAll(BLOCKS_PER_JOB * self._layout.block_bytes))
        spans = {
            "plain copy": (span.ended - span.began, span.cpu_s),
            "shm, in a row": await self._over_shm(in_a_row),
            "shm, scattered": await self._over_shm(scatter(in_a_row, seed=1)),
            "grpc": await self._over_grpc(scatter(in_a_row, seed=2)),
        }
        if not is_warm_up:
            for how, (wall_s, cpu_s) in spans.items():
                self.seen[how].add(self._num_bytes, wall_s, cpu_s)

    async def _over_shm(self, targets: tuple[int, ...]) -> tuple[float, float]:
        span = await self._source.ask(Push("shm", self._jobs(targets)))
        await self._verify(targets)
        return span.ended - span.began, span.cpu_s

    async def _over_grpc(self, targets: tuple[int, ...]) -> tuple[float, float]:
        jobs = self._jobs(targets)
        await self._target.ask(Expect(self._session_id, targets))
        sent = await self._source.ask(Push("grpc", jobs))
        landed = await self._target.ask(AwaitBlocks())
        await self._verify(targets)
        return landed.ended - sent.began, sent.cpu_s + landed.cpu_s

    def _jobs(self, targets: tuple[int, ...]) -> tuple[PushJob, ...]:
        self._session_id += 1
        step = BLOCKS_PER_JOB
        return tuple(
            PushJob(self._session_id, at, tuple(range(at, at + step)), targets[at : at + step])
            for at in range(0, len(targets), step)
        )

    async def _verify(self, targets: tuple[int, ...]) -> None:
        """A speed counts only for bytes that arrived: compares every seventh block."""
        sources = tuple(range(0, self._num_blocks, 7))
        sent = await self._source.ask(Sums(sources))
        came = await self._target.ask(Sums(tuple(targets[at] for at in sources)))
        if sent != came:
            raise BenchFailed("blocks arrived with other bytes than were sent.")

    def row(self, title: str, how: str) -> tuple[Cell, ...]:
        """One line of the table."""
        speed = percentile(self.seen[how].bytes_per_s, 50)
        plain = percentile(self.seen["plain copy"].bytes_per_s, 50)
        cpu = percentile(self.seen[how].cpu_s_per_byte, 50)
        assert speed is not None
        assert cpu is not None
        size = self._layout.block_bytes
        sizes = (size / 1024, BLOCKS_PER_JOB * size / 1e6)
        return (title, *sizes, how, speed / 1e9, ratio(speed, plain), cpu * 1e9)


def scatter(blocks: Sequence[int], seed: int) -> tuple[int, ...]:
    """The same blocks in an order without neighbours, as in an arena that has been in use."""
    shuffled = list(blocks)
    random.Random(seed).shuffle(shuffled)
    return tuple(shuffled)


def _transport_table(rows: list[tuple[Cell, ...]]) -> Table:
    return Table(
        "Moving blocks between two processes",
        ("blocks", "block KiB", "job MB", "how", "GB/s", "of a plain copy", "CPU s/GB"),
        tuple(rows),
        (
            "plain copy: one memmove per job inside the sending process, private memory to private "
            "memory; same bytes, same run; medians of the rounds",
            f"jobs of {BLOCKS_PER_JOB} blocks, one after the other, over more memory than caches "
            "hold; grpc ends when the last block lies in the receiver's arena; CPU of both sides",
            "aim for shm: at least 0.9 of a plain copy; jobs of up to 4 MB are copied on the spot, "
            "larger ones on the pusher's thread",
        ),
    )


async def _measure_hidden(run: Run) -> Table:
    rows = [await _hidden_row(run, transport) for transport in ("shm", "grpc")]
    return Table(
        f"Hand-offs of {LONG_PROMPT_LEN}-token prompts in the running system, one at a time",
        (
            "transport",
            "prompts",
            "TTFT p50 ms",
            "bytes each MB",
            "push each ms",
            "hidden %",
            "exposed p50 ms",
        ),
        tuple(rows),
        (
            "hidden: share of pushing that ran while prefill still computed, "
            "from baton_handoff_push_seconds_total of the decode worker",
            "exposed: what the decode worker waited beyond prefill's queue and computation, "
            "messages included",
            f"workers compute with {worker_threads()} thread(s), prompts in chunks of 512 tokens",
        ),
    )


async def _hidden_row(run: Run, transport: str) -> tuple[Cell, ...]:
    flag = (f"--transports={transport}",)
    gateway = ("--remote-prefill-tokens=64",)
    flags = {"prefill": flag, "decode": flag, "gateway": gateway}
    spec = SystemSpec(f"disaggregated over {transport}", 1, worker_threads(), flags)
    prompts = Prompts(seed=4)
    run.steps.next(f"starting {spec.title}")
    async with (
        running_system(spec, run.console) as system,
        GatewayClient(system.address()) as client,
    ):
        arm = Arm(system, client, PrefillMode.REMOTE)
        run.steps.next(f"{spec.title}: long prompts")
        await _ask(arm, prompts.draw_many(2, LONG_PROMPT_LEN))
        before = await _push_seconds(system)
        count = run.size(_SYSTEM_PROMPTS, _QUICK_SYSTEM_PROMPTS)
        replies = await _ask(arm, prompts.draw_many(count, LONG_PROMPT_LEN))
        after = await _push_seconds(system)
    if {reply.timings.transport for reply in replies} != {transport}:
        raise BenchFailed(f"hand-offs did not go over {transport}.")
    pushed, hidden = (after[part] - before[part] for part in ("all", "hidden"))
    num_bytes = sum(reply.timings.handoff_bytes for reply in replies)
    return (
        transport,
        count,
        milliseconds([reply.answer.ttft_s for reply in replies], 50),
        num_bytes / count / 1e6,
        1e3 * pushed / count,
        100 * hidden / pushed,
        milliseconds([reply.timings.handoff_us / 1e6 for reply in replies], 50),
    )


async def _ask(arm: Arm, prompts: Sequence[Sequence[int]]) -> list[Reply]:
    replies = [await arm.client.answer(prompt, 2) for prompt in prompts]
    arm.require_modes(replies)
    return replies


async def _push_seconds(system: System) -> dict[str, float]:
    def read() -> str:
        with urllib.request.urlopen(system.metrics_url("decode"), timeout=10) as page:
            text: str = page.read().decode()
        return text

    samples = {"all": 0.0, "hidden": 0.0}
    for family in text_string_to_metric_families(await asyncio.to_thread(read)):
        for sample in family.samples:
            if sample.name == "baton_handoff_push_seconds_total":
                samples[sample.labels["part"]] = sample.value
    return samples
