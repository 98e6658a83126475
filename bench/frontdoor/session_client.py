"""Many clients on one `Session` stream per gateway. Frames are read, since they carry handles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc

from baton.v1 import gateway_pb2 as pb
from bench.failure import BenchFailed, task_group
from bench.frontdoor.http_client import Answers
from bench.frontdoor.messages import Load

FRAME_BYTES = 1 << 20
"""The gateway takes four times as much."""
_METHOD = "/baton.v1.GatewayService/Session"
_TIMEOUT_S = 120.0


class SessionClients:
    """A closed loop of clients. Channels live as long as it does, a stream as long as a load."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def run(self, load: Load, requests: Sequence[bytes]) -> Answers:
        """Sends all and reads all answers."""
        waiting, answers = iter(requests), Answers()
        async with asyncio.timeout(_TIMEOUT_S), task_group() as group:
            for number, address in enumerate(load.addresses):
                num_clients = len(range(number, load.num_clients, len(load.addresses)))
                if address not in self._channels:
                    self._channels[address] = grpc.aio.insecure_channel(address)
                call = self._channels[address].stream_stream(_METHOD, None, None)(None)
                stream = _Stream(call, waiting, answers, load)
                group.create_task(stream.run(num_clients))
        return answers


@dataclass(slots=True)
class _Asked:
    """A request in flight."""

    began: float
    first: float = 0.0
    num_events: int = 0


class _Stream:
    """One stream and the clients on it; a handle is a client."""

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[bytes, bytes],
        waiting: Iterator[bytes],
        answers: Answers,
        load: Load,
    ) -> None:
        self._call = call
        self._waiting = waiting
        self._answers = answers
        self._load = load
        self._asked: dict[int, _Asked] = {}

    async def run(self, num_clients: int) -> None:
        """Until no request is left."""
        try:
            await self._submit(list(range(1, num_clients + 1)))
            while self._asked:
                frame = await self._call.read()
                if not isinstance(frame, bytes):
                    raise BenchFailed(f"Session: the stream ended: {await self._call.details()}")
                await self._submit(self._take(frame))
            await self._call.done_writing()
            await self._call.code()
        except grpc.aio.AioRpcError as error:
            raise BenchFailed(f"Session: {error.code().name}: {error.details()}") from error
        finally:
            self._call.cancel()

    async def _submit(self, handles: Sequence[int]) -> None:
        """The next requests of clients, as far as there are any, in as few frames as may be."""
        frame = b""
        for handle, request in zip(handles, self._waiting, strict=False):
            if frame and len(frame) + len(request) > FRAME_BYTES:
                await self._call.write(frame)
                frame = b""
            # Messages in bytes may be put one behind the other.
            frame += _submit_bytes(handle, request)
            self._asked[handle] = _Asked(time.monotonic())
        if frame:
            await self._call.write(frame)

    def _take(self, frame: bytes) -> list[int]:
        """Notes what came; returns the clients that are free again."""
        now, free = time.monotonic(), []
        for event in pb.SessionResponse.FromString(frame).events:
            asked = self._asked[event.handle]
            asked.first = asked.first or now
            kind = event.WhichOneof("event")
            if kind == "chunk":
                asked.num_events += 1
            elif kind == "final":
                self._finish(self._asked.pop(event.handle), event.final)
                free.append(event.handle)
            else:
                raise BenchFailed(f"Session: a request failed: {event.error}")
        return free

    def _finish(self, asked: _Asked, final: pb.GenerateFinal) -> None:
        shape = self._load.shape
        lengths = (final.prompt_token_count, final.output_token_count)
        if lengths != (shape.prompt_len, shape.output_len):
            raise BenchFailed(f"Session: {shape} was asked for, this came: {lengths}")
        self._answers.ttfts_s.append(asked.first - asked.began)
        self._answers.num_tokens += final.output_token_count
        self._answers.num_events += asked.num_events


def _submit_bytes(handle: int, request: bytes) -> bytes:
    """A `SessionRequest` of one submission around a request that is serialised already."""
    submit = pb.SessionSubmit(handle=handle).SerializeToString()
    field = pb.SessionSubmit.DESCRIPTOR.fields_by_name["request"].number
    submit += _length_delimited(field, request)
    return _length_delimited(pb.SessionRequest.DESCRIPTOR.fields_by_name["submits"].number, submit)


def _length_delimited(field: int, content: bytes) -> bytes:
    key, size, length = bytes((field << 3 | 2,)), len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return key + bytes((*length, size)) + content
