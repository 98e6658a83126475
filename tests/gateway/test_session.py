"""`GatewayService.Session` as a client on a real socket sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from baton.request import FinishReason, TokenLogprobs
from baton.rpc.serve import Process
from baton.rpc.settings import ServiceSettings
from baton.v1 import gateway_pb2 as pb
from baton.v1 import gateway_pb2_grpc as stubs
from baton.v1 import types_pb2
from services.gateway.grpc_door import SERVICE_NAME, GatewayService
from tests.support.fake_decode import FakeDecode, eventually
from tests.support.gateway_world import World

SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 14)]
LIMIT = 70


class Stream:
    """A session, the core behind it, and a decode worker behind that."""

    def __init__(self, world: World, worker: FakeDecode, process: Process, call: Any) -> None:
        self.world = world
        self.worker = worker
        self.process = process
        self.call = call

    async def submit(self, *handles: int, **fields: Any) -> None:
        """One frame with a request per handle."""
        await self.call.write(
            pb.SessionRequest(submits=[submission(handle, **fields) for handle in handles])
        )

    async def cancel(self, *handles: int) -> None:
        cancels = [pb.SessionCancel(handle=handle) for handle in handles]
        await self.call.write(pb.SessionRequest(cancels=cancels))

    async def frame(self) -> list[pb.SessionEvent]:
        """The next frame's events; none at the end of the stream."""
        frame = await self.call.read()
        return [] if frame is grpc.aio.EOF else list(frame.events)

    async def ends(self, count: int) -> dict[int, pb.SessionEvent]:
        """Reads until so many requests have ended; fails when one ends twice."""
        ends: dict[int, pb.SessionEvent] = {}
        while len(ends) < count:
            events = await self.frame()
            assert events, "the stream has ended"
            for event in events:
                assert event.handle not in ends, "news behind an end"
                if event.WhichOneof("event") != "chunk":
                    ends[event.handle] = event
        return ends


def submission(handle: int, **fields: Any) -> pb.SessionSubmit:
    fields.setdefault("text", "Hello")
    fields.setdefault("sampling", types_pb2.SamplingParams(temperature=0, max_tokens=20))
    return pb.SessionSubmit(handle=handle, request=pb.GenerateRequest(**fields))


@pytest.fixture
async def stream(world: World) -> AsyncIterator[Stream]:
    worker = await world.add()
    process = Process("gateway", ServiceSettings())
    service = GatewayService(world.core, max_timeout_s=600, max_session_requests=LIMIT)
    process.register([SERVICE_NAME], service.register)
    process.on_drain(service.drain)
    await process.start()
    async with grpc.aio.insecure_channel(process.address, options=SMALL_WINDOW) as channel:
        call = stubs.GatewayServiceStub(channel).Session()
        yield Stream(world, worker, process, call)
        call.cancel()
    await process.stop()


async def test_many_requests_share_the_stream_and_each_ends_once(stream):
    stream.worker.script = lambda submission, sample: stream.world.ids("the quick fox")
    await stream.submit(1, 2, 3, return_token_ids=True)

    ends = await stream.ends(3)

    assert {handle: event.WhichOneof("event") for handle, event in ends.items()} == {
        1: "final",
        2: "final",
        3: "final",
    }
    assert len({event.final.request_id for event in ends.values()}) == 3


async def test_one_step_of_many_requests_leaves_as_one_frame(stream):
    handles = range(1, 65)
    await stream.submit(*handles)
    await stream.worker.submitted(len(handles))
    submissions = stream.worker.submissions
    token = stream.world.ids("fox")

    for _ in range(3):
        connection = submissions[0].connection
        await connection.send(*(submission.delta(token) for submission in submissions))
        events = await stream.frame()

        assert sorted(event.handle for event in events) == list(handles)
        assert {event.chunk.text for event in events} == {"fox"}


async def test_the_first_event_and_errors_name_the_request(stream):
    await stream.submit(1, request_id="mine")
    submission = await stream.worker.submitted()
    await submission.send(stream.world.ids("the"))
    [first] = await stream.frame()
    await submission.send(stream.world.ids(" fox"))
    [second] = await stream.frame()
    await stream.cancel(1)

    assert (first.request_id, second.request_id) == ("mine", "")
    assert (await stream.ends(1))[1].request_id == "mine"


async def test_a_bad_request_ends_alone(stream):
    await stream.submit(1)
    await stream.submit(2, sampling=types_pb2.SamplingParams(temperature=3))
    await stream.submit(3, request_id="two words")
    bad = await stream.ends(2)
    await (await stream.worker.submitted()).send(end=FinishReason.LENGTH)

    assert (bad[2].error.code, bad[2].error.field) == (3, "temperature")
    assert bad[3].error.field == "request_id"
    assert (await stream.ends(1))[1].HasField("final")


async def test_a_handle_in_use_is_refused_and_its_request_goes_on(stream):
    await stream.submit(1)
    running = await stream.worker.submitted()
    await stream.submit(1, text="Something else")
    [refusal] = await stream.frame()
    await running.send(end=FinishReason.LENGTH)

    assert (refusal.error.reason, refusal.error.field) == ("ALREADY_RUNNING", "handle")
    assert (await stream.ends(1))[1].HasField("final")
    await stream.submit(1)
    await (await stream.worker.submitted(2)).send(end=FinishReason.LENGTH)
    assert (await stream.ends(1))[1].HasField("final")


async def test_a_cancelled_request_ends_with_cancelled_and_frees_the_worker(stream):
    await stream.submit(1, 2)
    first = await stream.worker.submitted()
    await stream.cancel(1, 77)

    ends = await stream.ends(1)
    await stream.worker.cancelled(first)

    assert ends[1].error.reason == "CANCELLED"
    assert stream.world.core.num_requests == 1


async def test_a_request_cancelled_in_the_frame_that_brought_it_ends_too(stream):
    frame = pb.SessionRequest(submits=[submission(9)], cancels=[pb.SessionCancel(handle=9)])
    await stream.call.write(frame)

    assert (await stream.ends(1))[9].error.reason == "CANCELLED"


async def test_too_many_requests_are_told_when_to_come_back(stream):
    await stream.submit(*range(LIMIT + 1))

    [refusal] = await stream.frame()

    assert (refusal.handle, refusal.error.reason) == (LIMIT, "OVERLOADED")
    assert refusal.error.retry_delay_ms == 1000


async def test_half_close_lets_requests_finish_and_ends_the_stream_well(stream):
    await stream.submit(1)
    submission = await stream.worker.submitted()
    await stream.call.done_writing()
    await submission.send(stream.world.ids("fox"))
    await stream.frame()
    await submission.send(end=FinishReason.LENGTH)

    assert (await stream.ends(1))[1].HasField("final")
    assert await stream.frame() == []
    assert await stream.call.code() is grpc.StatusCode.OK


async def test_a_client_that_leaves_cancels_all(stream):
    await stream.submit(1, 2, 3)
    await stream.worker.submitted(3)
    stream.call.cancel()

    async with asyncio.timeout(1):
        for number in (1, 2, 3):
            await stream.worker.cancelled(await stream.worker.submitted(number))
        await eventually(lambda: stream.world.core.num_requests == 0)


async def test_a_draining_gateway_refuses_new_requests_and_ends_the_stream_behind_the_old(stream):
    await stream.submit(1)
    running = await stream.worker.submitted()
    stream.world.is_draining = True
    stopping = asyncio.create_task(stream.process.stop())
    await stream.submit(2)
    refused = await stream.ends(1)
    await running.send(end=FinishReason.LENGTH)

    assert (refused[2].error.code, refused[2].error.reason) == (14, "NO_WORKER")
    assert (await stream.ends(1))[1].HasField("final")
    assert await stream.frame() == []
    assert await stream.call.code() is grpc.StatusCode.OK
    await stopping


async def test_a_client_that_does_not_read_is_sent_merged_chunks(stream):
    fox = stream.world.ids("fox")[0]
    sampling = types_pb2.SamplingParams(temperature=0, max_tokens=60, logprobs_count=20)
    await stream.submit(1, sampling=sampling, return_token_ids=True)
    submission = await stream.worker.submitted()
    top = tuple((fox, -1.0) for _ in range(2000))
    num_frames = 50
    for number in range(num_frames):
        end = FinishReason.LENGTH if number == num_frames - 1 else None
        await submission.send([fox], logprobs=[TokenLogprobs(fox, -1.0, top)], end=end)
    await eventually(lambda: stream.world.core.num_requests == 0)

    events = []
    while not events or not events[-1].HasField("final"):
        events += await stream.frame()

    chunks = [event.chunk for event in events if event.HasField("chunk")]
    assert [token for chunk in chunks for token in chunk.token_ids] == [fox] * num_frames
    assert len(chunks) < num_frames


async def test_priority_timeout_and_trace_are_those_of_each_request(stream):
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    submit = submission(1, priority=7, timeout_ms=300)
    submit.traceparent = trace
    await stream.call.write(pb.SessionRequest(submits=[submit]))
    message = (await stream.worker.submitted()).message

    ends = await stream.ends(1)

    assert message.priority == 7
    assert message.timeout_ms <= 300
    assert message.traceparent.split("-")[1] == "a" * 32
    assert ends[1].error.reason == "DEADLINE_EXCEEDED"


async def test_a_retry_in_a_session_takes_over(stream):
    await stream.submit(1, request_id="again")
    first = await stream.worker.submitted()
    await stream.submit(2, request_id="again")
    second = await stream.worker.submitted(2)
    lost = await stream.ends(1)
    await second.send(end=FinishReason.LENGTH)

    assert (lost[1].error.code, lost[1].error.reason) == (10, "SUPERSEDED")
    assert (await stream.ends(1))[2].final.request_id == "again"
    assert first.message.sampling.seed == second.message.sampling.seed
    await stream.worker.cancelled(first)
