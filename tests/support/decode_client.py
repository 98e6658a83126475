"""A gateway's stand-in: speaks DecodeService to a real worker and keeps what comes back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
from checkpoints import VOCAB_SIZE

from baton import convert
from baton.blocks import pack_tokens
from baton.request import SamplingParams
from baton.rpc.channels import open_channel
from baton.rpc.outbox import Outbox
from baton.v1 import decode_pb2 as pb
from baton.v1 import decode_pb2_grpc, worker_pb2, worker_pb2_grpc

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)


def make_prompt(length: int, seed: int) -> list[int]:
    """Token ids of a test checkpoint's vocabulary, without the special ones."""
    source = random.Random(seed * 1000 + length)
    return [source.randrange(8, VOCAB_SIZE) for _ in range(length)]


@dataclass
class Answer:
    """One sample, as it came."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    end: pb.SequenceEnd | None = None
    num_ends: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def ended(self, limit_s: float = 60.0) -> Answer:
        """Waits for the end."""
        await self.until(lambda: self.end is not None, limit_s)
        return self

    async def until(self, condition, limit_s: float = 60.0) -> None:
        """Waits until something holds of this answer."""
        async with asyncio.timeout(limit_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class DecodeClient:
    """One stream to one decode worker. Use as an async context manager."""

    def __init__(self, address: str, prefill: str = "") -> None:
        self._channel = open_channel(address)
        self._prefill = prefill
        self._outbox: Outbox[pb.DecodeConnectRequest] = Outbox()
        self._answers: dict[tuple[int, int], Answer] = {}
        self._last_handle = 0
        self.num_frames = 0

    async def __aenter__(self) -> DecodeClient:
        stub = decode_pb2_grpc.DecodeServiceStub(self._channel)
        self._call = stub.Connect(self._requests())
        self._frames = aiter(self._call)
        first = await anext(self._frames)
        assert first.epoch
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_) -> None:
        self._call.cancel()
        self._reader.cancel()
        await asyncio.wait([self._reader])
        await self._channel.close(None)

    def submit(
        self,
        token_ids: list[int],
        sampling: SamplingParams = GREEDY,
        /,
        *,
        is_remote: bool = True,
        **fields,
    ) -> list[Answer]:
        """Starts a request; one answer per sample."""
        self._last_handle += 1
        message = pb.SubmitSequence(
            handle=self._last_handle,
            request_id=f"r{self._last_handle}",
            sampling=convert.sampling_to_pb(sampling),
            **{
                "token_ids": pack_tokens(token_ids),
                "prompt_len": len(token_ids),
                "timeout_ms": 60_000,
                "sample_count": 1,
            }
            | fields,
        )
        if is_remote and self._prefill:
            message.prefill_worker_id, message.prefill_address = "p", self._prefill
        answers = [Answer() for _ in range(message.sample_count)]
        for index, answer in enumerate(answers, message.sample_index):
            self._answers[self._last_handle, index] = answer
        self._outbox.put(pb.DecodeConnectRequest(submits=[message]))
        return answers

    async def ask(
        self, token_ids: list[int], sampling: SamplingParams = GREEDY, **fields
    ) -> Answer:
        """One whole answer."""
        return await self.submit(token_ids, sampling, **fields)[0].ended()

    def cancel_last(self, sample_index: int | None = None) -> None:
        """Cancels the newest request, or one sample of it."""
        cancel = pb.CancelSequence(handle=self._last_handle, sample_index=sample_index)
        self._outbox.put(pb.DecodeConnectRequest(cancels=[cancel]))

    async def _requests(self) -> AsyncIterator[pb.DecodeConnectRequest]:
        yield pb.DecodeConnectRequest(gateway_id="test")
        async for parts in self._outbox.batches():
            for part in parts:
                yield part

    async def _read(self) -> None:
        try:
            async for frame in self._frames:
                self.num_frames += 1
                for delta in frame.deltas:
                    self._take(delta)
        except grpc.aio.AioRpcError:
            pass
        for answer in self._answers.values():
            answer.changed.set()

    def _take(self, delta: pb.SequenceDelta) -> None:
        answer = self._answers[delta.handle, delta.sample_index]
        answer.token_ids += delta.token_ids
        answer.logprobs += [position.chosen.logprob for position in delta.logprobs]
        if delta.HasField("end"):
            answer.end = delta.end
            answer.num_ends += 1
        answer.changed.set()


async def worker_facts(address: str) -> worker_pb2.GetWorkerResponse:
    """What a worker says of itself now."""
    async with open_channel(address) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        return await stub.GetWorker(worker_pb2.GetWorkerRequest(), timeout=10)


async def until_free(address: str, limit_s: float) -> float:
    """Waits until no block is held; returns the seconds that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(limit_s):
        while True:
            facts = await worker_facts(address)
            if facts.free_block_count == facts.block_count and not facts.sequence_count:
                return loop.time() - began
            await asyncio.sleep(0.01)
