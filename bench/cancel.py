"""Cancel: from a client's cancel to free blocks, while decoding and while the prompt computes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from baton.rpc.channels import open_channel
from baton.v1 import worker_pb2, worker_pb2_grpc
from bench.client import GatewayClient, Prompts, Reply, new_reply
from bench.failure import BenchFailed
from bench.options import Run, worker_threads
from bench.report import Cell, Table
from bench.stats import milliseconds
from bench.system import System, SystemSpec, running_system

PROMISE_S = 1.0
CONTEXT_LEN = 2048
SHORT_PROMPT_LEN, LONG_PROMPT_LEN = 64, 1920
_LIMIT_S = 30.0
_POLL_S = 0.001


@dataclass(frozen=True, slots=True)
class _Phase:
    """When in its life a request is cancelled."""

    title: str
    prompt_len: int
    is_reached: Callable[[Reply], Awaitable[bool]]
    has_tokens: bool
    """Whether the client has tokens in this phase: a request that has left it does not count."""


class _Gauge:
    """Asks one worker, over an open channel, how many blocks it holds."""

    def __init__(self, stub: worker_pb2_grpc.WorkerServiceStub) -> None:
        self._stub = stub

    async def read(self) -> worker_pb2.GetWorkerResponse:
        """What the worker says of itself now."""
        reply: worker_pb2.GetWorkerResponse = await self._stub.GetWorker(
            worker_pb2.GetWorkerRequest(), timeout=_LIMIT_S
        )
        return reply

    async def is_free(self) -> bool:
        """Whether no sequence is there and no block is held."""
        facts = await self.read()
        return not facts.sequence_count and facts.free_block_count == facts.block_count


async def run(run: Run) -> list[Table]:
    """Cancels one request after the other, over Baton gRPC."""
    num_tries = run.size(25, 3)
    remote = {"gateway": ("--remote-prefill-tokens=64",)}
    spec = SystemSpec("disaggregated", 1, worker_threads(), remote)
    run.steps.begin("cancel", 3)
    run.steps.next(f"starting {spec.title}")
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(running_system(spec, run.console))
        client = await stack.enter_async_context(GatewayClient(system.address()))
        gauges = {kind: await _gauge(stack, system, kind) for kind in ("decode", "prefill")}
        canceller = _Canceller(client, gauges)
        times = {}
        for phase in canceller.phases():
            run.steps.next(phase.title)
            times[phase.title] = await canceller.cancel_many(num_tries, phase)
    return [_table(times)]


async def _gauge(stack: AsyncExitStack, system: System, kind: str) -> _Gauge:
    channel = await stack.enter_async_context(open_channel(system.address(kind)))
    return _Gauge(worker_pb2_grpc.WorkerServiceStub(channel))


class _Canceller:
    """Asks, waits for the phase, cancels, waits for the blocks."""

    def __init__(self, client: GatewayClient, gauges: Mapping[str, _Gauge]) -> None:
        self._client = client
        self._gauges = gauges
        self._prompts = Prompts(seed=5)

    def phases(self) -> list[_Phase]:
        """While tokens come, and while the prefill worker has the prompt."""

        async def decodes(reply: Reply) -> bool:
            return reply.answer.num_tokens >= 8

        async def computes(reply: Reply) -> bool:
            return bool((await self._gauges["prefill"].read()).sequence_count)

        long = f"prefill worker computes {LONG_PROMPT_LEN} tokens"
        return [
            _Phase("decoding", SHORT_PROMPT_LEN, decodes, has_tokens=True),
            _Phase(long, LONG_PROMPT_LEN, computes, has_tokens=False),
        ]

    async def cancel_many(self, count: int, phase: _Phase) -> list[float]:
        """Seconds from cancel to free, of so many requests in the phase."""
        times: list[float] = []
        for _ in range(3 * count):
            taken = await self._cancel_one(phase)
            if taken is not None:
                times.append(taken)
            if len(times) == count:
                return times
        raise BenchFailed(
            f"{phase.title}: only {len(times)} of {3 * count} requests were still there when they "
            f"were cancelled, {count} were wanted."
        )

    async def _cancel_one(self, phase: _Phase) -> float | None:
        """None: the request left the phase before it was cancelled."""
        await self._until_free()
        reply = new_reply()
        prompt = self._prompts.draw(phase.prompt_len)
        asking = self._client.ask(prompt, CONTEXT_LEN - phase.prompt_len, reply)
        task = asyncio.create_task(asking)
        try:
            async with asyncio.timeout(_LIMIT_S):
                while not await phase.is_reached(reply) and not task.done():
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BenchFailed(f"{phase.title}: not within {_LIMIT_S:.0f} s.") from None
        finally:
            cancelled_at = time.monotonic()
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        has_missed = reply.final is not None or bool(reply.answer.num_tokens) != phase.has_tokens
        await self._until_free()
        return None if has_missed else time.monotonic() - cancelled_at

    async def _until_free(self) -> None:
        try:
            async with asyncio.timeout(_LIMIT_S):
                for gauge in self._gauges.values():
                    while not await gauge.is_free():
                        await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BenchFailed(f"blocks were not free {_LIMIT_S:.0f} s after a cancel.") from None


def _table(times_of: Mapping[str, list[float]]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            phase,
            len(times),
            milliseconds(times, 50),
            milliseconds(times, 100),
            "yes" if max(times) <= PROMISE_S else "NO",
        )
        for phase, times in times_of.items()
    ]
    return Table(
        "From a client's cancel to free blocks",
        ("phase", "cancels", "p50 ms", "max ms", f"within {PROMISE_S:g} s"),
        tuple(rows),
        (
            "free: decode and prefill worker both say in GetWorker that no sequence is there and "
            "no block is held; asked every millisecond or as fast as they answer, which is between "
            "two engine steps",
        ),
    )
