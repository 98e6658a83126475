"""Many gRPC clients on one connection per gateway, with messages as bytes in both directions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import grpc

from baton.v1 import gateway_pb2 as pb
from baton.v1 import types_pb2
from bench.failure import BenchFailed, task_group
from bench.frontdoor.http_client import Answers
from bench.frontdoor.messages import Load
from bench.frontdoor.prompts import make_prompts

_TIMEOUT_S = 120.0
_METHOD = "/baton.v1.GatewayService/Generate"


def make_requests(load: Load) -> list[bytes]:
    """All messages to send, serialised."""
    prompts = make_prompts(load.tokenizer, load.shape, load.num_requests, load.seed)
    sampling = types_pb2.SamplingParams(
        temperature=0.0, max_tokens=load.shape.output_len, ignore_eos=True
    )
    return [
        pb.GenerateRequest(model=load.model, text=prompt, sampling=sampling).SerializeToString()
        for prompt in prompts
    ]


class GrpcClients:
    """A closed loop of clients. The channels live as long as it does."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def run(self, load: Load, requests: Sequence[bytes]) -> Answers:
        """Sends all and reads all answers."""
        waiting, answers = iter(requests), Answers()
        async with task_group() as group:
            for index in range(load.num_clients):
                address = load.addresses[index % len(load.addresses)]
                group.create_task(self._keep_asking(address, waiting, answers, load))
        return answers

    async def _keep_asking(
        self, address: str, waiting: Iterator[bytes], answers: Answers, load: Load
    ) -> None:
        # No serialisers: bytes go in, bytes come out.
        call = self._channel(address).unary_stream(_METHOD, None, None)
        for request in waiting:
            began = time.monotonic()
            first, last, num_messages = 0.0, b"", 0
            try:
                async for message in call(request, timeout=_TIMEOUT_S):
                    first, last = first or time.monotonic(), message
                    num_messages += 1
            except grpc.aio.AioRpcError as error:
                raise BenchFailed(f"gRPC: {error.code().name}: {error.details()}") from error
            final = pb.GenerateResponse.FromString(last).final
            lengths = (final.prompt_token_count, final.output_token_count)
            if lengths != (load.shape.prompt_len, load.shape.output_len):
                raise BenchFailed(f"gRPC: {load.shape} was asked for, this came: {lengths}")
            answers.ttfts_s.append(first - began)
            answers.num_tokens += final.output_token_count
            answers.num_events += num_messages - 1

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address)
        return self._channels[address]
