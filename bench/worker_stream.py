"""A decode worker's stream without a gateway: what a gateway would see of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Self

import grpc

from baton import convert
from baton.blocks import pack_tokens
from baton.request import PrefillMode, SamplingParams
from baton.rpc.channels import open_channel
from baton.rpc.outbox import Outbox
from baton.v1 import decode_pb2 as pb
from baton.v1 import decode_pb2_grpc
from bench.failure import BenchFailed
from bench.stats import Answer

_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class PrefillAt:
    """The prefill worker to name in a submission."""

    worker_id: str
    address: str


class WorkerStream:
    """One request at a time over one open stream. Use as an async context manager."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._outbox: Outbox[pb.DecodeConnectRequest] = Outbox()
        self._last_handle = 0

    async def __aenter__(self) -> Self:
        stub = decode_pb2_grpc.DecodeServiceStub(self._channel)
        self._call = stub.Connect(self._requests())
        self._frames: AsyncIterator[pb.DecodeConnectResponse] = aiter(self._call)
        await anext(self._frames)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close(None)

    async def answer(
        self, token_ids: Sequence[int], max_tokens: int, prefill: PrefillAt | None = None
    ) -> Answer:
        """One whole greedy answer. Raises `BenchFailed` where it is not computed as asked."""
        self._last_handle += 1
        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        submit = pb.SubmitSequence(
            handle=self._last_handle,
            request_id=f"bench-{self._last_handle}",
            token_ids=pack_tokens(token_ids),
            prompt_len=len(token_ids),
            sampling=convert.sampling_to_pb(sampling),
            sample_count=1,
            timeout_ms=_TIMEOUT_MS,
            prefill_worker_id=prefill.worker_id if prefill else "",
            prefill_address=prefill.address if prefill else "",
        )
        answer = Answer(time.monotonic())
        self._outbox.put(pb.DecodeConnectRequest(submits=[submit]))
        mode = PrefillMode.REMOTE if prefill else PrefillMode.LOCAL
        try:
            while not self._take(await anext(self._frames), answer, mode):
                pass
        except (grpc.aio.AioRpcError, StopAsyncIteration) as error:
            raise BenchFailed(f"the decode worker's stream broke: {error}") from error
        return answer

    def _take(self, frame: pb.DecodeConnectResponse, answer: Answer, mode: PrefillMode) -> bool:
        """Whether that was the end."""
        now = time.monotonic()
        for delta in frame.deltas:
            answer.take(now, len(delta.token_ids))
            if delta.HasField("end"):
                if delta.end.error.reason or delta.end.timings.prefill_mode != mode.value:
                    raise BenchFailed(f"a request for {mode.name} prefill ended so: {delta.end}")
                return True
        return False

    async def _requests(self) -> AsyncIterator[pb.DecodeConnectRequest]:
        yield pb.DecodeConnectRequest(gateway_id="bench")
        async for parts in self._outbox.batches():
            for part in parts:
                yield part
