"""The load: a gateway's client that does nothing per chunk but look at the clock."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import grpc

from baton.cli.topology import DEMO_MODEL
from baton.rpc.channels import open_channel
from baton.rpc.status import from_rpc_error
from baton.v1 import gateway_pb2 as pb
from baton.v1 import gateway_pb2_grpc, types_pb2
from bench.failure import BenchFailed, task_group
from bench.stats import Answer

_FIRST_PLAIN_ID = 8
"""Below it lie the demo model's special tokens."""
_TIMEOUT_S = 300.0


class Prompts:
    """Random token ids, never the same prompt twice: no prefix cache may help."""

    def __init__(self, seed: int = 0) -> None:
        self._source = random.Random(seed)
        self._vocab_size = int(json.loads((DEMO_MODEL / "config.json").read_text())["vocab_size"])

    def draw(self, length: int) -> list[int]:
        """A prompt."""
        return [self._source.randrange(_FIRST_PLAIN_ID, self._vocab_size) for _ in range(length)]

    def draw_many(self, count: int, length: int) -> list[list[int]]:
        """Several prompts."""
        return [self.draw(length) for _ in range(count)]


@dataclass(slots=True)
class Reply:
    """An answer with what the gateway says of it; `final` is None until the end."""

    answer: Answer
    final: pb.GenerateFinal | None = None

    @property
    def timings(self) -> types_pb2.SequenceTimings:
        """Where its time went, as the workers saw it. Only of a whole answer."""
        assert self.final is not None
        return self.final.samples[0].timings


@dataclass(frozen=True, slots=True)
class Load:
    """What a closed loop brought."""

    replies: list[Reply]
    wall_s: float
    """From the first request sent to the last one ended: ramp and tail included."""
    client_share: float
    """CPU time of this process over wall time: 1 is one core."""

    @property
    def answers(self) -> list[Answer]:
        """All of them, in the order of their start."""
        return [reply.answer for reply in self.replies]


class GatewayClient:
    """Greedy requests over Baton gRPC, on one connection. Text is asked for as users do."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._stub = gateway_pb2_grpc.GatewayServiceStub(self._channel)

    async def ask(self, token_ids: Sequence[int], max_tokens: int, into: Reply) -> None:
        """Fills `into` while the answer comes. Cancelled, it cancels the request.

        Raises `BenchFailed` for an error or an answer of another length.
        """
        request = pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=token_ids),
            sampling=types_pb2.SamplingParams(
                temperature=0.0, max_tokens=max_tokens, ignore_eos=True
            ),
            return_token_ids=True,
        )
        into.answer.sent = time.monotonic()
        call = self._stub.Generate(request, timeout=_TIMEOUT_S)
        try:
            async for response in call:
                if response.HasField("final"):
                    into.final = response.final
                else:
                    into.answer.take(time.monotonic(), len(response.chunk.token_ids))
        except grpc.aio.AioRpcError as error:
            raise BenchFailed(f"a request failed: {from_rpc_error(error)}") from error
        finally:
            call.cancel()
        if into.answer.num_tokens != max_tokens or into.final is None:
            raise BenchFailed(
                f"an answer of {into.answer.num_tokens} tokens came, {max_tokens} were asked for."
            )

    async def answer(self, token_ids: Sequence[int], max_tokens: int) -> Reply:
        """One whole answer."""
        reply = new_reply()
        await self.ask(token_ids, max_tokens, reply)
        return reply

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def new_reply() -> Reply:
    """An answer that is about to be asked for."""
    return Reply(Answer(time.monotonic()))


async def run_closed_loop(
    client: GatewayClient, prompts: Sequence[Sequence[int]], max_tokens: int, concurrency: int
) -> Load:
    """Asks all, `concurrency` at a time: the next is sent when one has ended."""
    waiting = iter(prompts)
    replies: list[Reply] = []

    async def keep_asking() -> None:
        for prompt in waiting:
            reply = new_reply()
            replies.append(reply)
            await client.ask(prompt, max_tokens, reply)

    meter = BusyMeter()
    async with task_group() as group:
        for _ in range(concurrency):
            group.create_task(keep_asking())
    wall_s, share = meter.read()
    return Load(replies, wall_s, share)


@dataclass(slots=True)
class BusyMeter:
    """How busy this process is: a client that has no time to read measures itself."""

    _wall: float = field(default_factory=time.monotonic)
    _cpu: float = field(default_factory=time.process_time)

    def read(self) -> tuple[float, float]:
        """Seconds since the start, and CPU time as a share of them."""
        wall_s = time.monotonic() - self._wall
        return wall_s, (time.process_time() - self._cpu) / wall_s
