"""What a gateway tells of where requests went: over a real channel, and as people read it."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from rich.console import Console

from baton.cli.errors import CommandError
from baton.cli.explain import run_explain, tell
from baton.errors import EngineFailed
from baton.request import FinishReason, SequenceTimings
from baton.rpc.status import StatusInterceptor
from baton.v1 import explain_pb2 as pb
from baton.v1 import explain_pb2_grpc as stubs
from services.gateway import decisions
from services.gateway.explain import ExplainService
from tests.support.fake_decode import eventually
from tests.support.gateway_world import World, prefill_record

LONG = "the quick brown fox jumps over the lazy dog, and again"


@pytest.fixture
async def address(world: World):
    server = grpc.aio.server(interceptors=(StatusInterceptor(),))
    ExplainService(world.placer.decisions).register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
async def stub(address: str):
    async with grpc.aio.insecure_channel(address) as channel:
        yield stubs.ExplainServiceStub(channel)


async def ask(stub, request_id: str = "request-1") -> pb.ExplainResponse:
    return await stub.Explain(pb.ExplainRequest(request_id=request_id), timeout=5)


def as_text(story: pb.ExplainResponse) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(tell(story, 8))
    return captured.get()


async def test_a_request_is_explained_before_and_behind_its_end(world, stub):
    worker = await world.add()
    world.directory.up(prefill_record("prefill-0"))

    task = world.start(LONG)
    submission = await worker.submitted()
    early = await ask(stub)
    timings = SequenceTimings(queue_us=1500, prefill_worker_id="prefill-0")
    await submission.send(world.ids("the"))
    await submission.send(end=FinishReason.LENGTH, timings=timings)
    await task
    await world.core.drained()
    story = await ask(stub)

    (decision,) = story.decisions
    chosen = decision.options[decision.chosen_index]
    assert not early.HasField("outcome")
    assert (chosen.decode_worker_id, chosen.prefill_worker_id) == ("decode-0", "prefill-0")
    assert chosen.computed_token_count == decision.token_count == len(world.ids(LONG))
    assert chosen.cost_ms == pytest.approx(sum(term.value_ms for term in chosen.terms))
    assert story.outcome.result == "ok"
    assert story.outcome.ttft_ms > 0
    assert story.outcome.timings.queue_us == 1500
    text = as_text(story)
    for word in ("decode-0", "prefill-0", "compute", "handoff", "predicted", "waited 1.5 ms"):
        assert word in text


async def test_a_request_that_moved_has_two_decisions(world, stub):
    workers = [await world.add(f"decode-{index}") for index in range(2)]

    task = world.start()
    await eventually(lambda: any(worker.submissions for worker in workers))
    first = next(worker for worker in workers if worker.submissions)
    second = workers[1 - workers.index(first)]
    await first.submissions[0].fail(EngineFailed("it broke"))
    await (await second.submitted()).send(end=FinishReason.LENGTH)
    await task
    story = await ask(stub)

    assert [d.options[d.chosen_index].decode_worker_id for d in story.decisions] == [
        first.worker_id,
        second.worker_id,
    ]
    assert f"{first.worker_id} is excluded" in story.decisions[1].rejections


async def test_only_the_newest_requests_are_kept(world, stub, monkeypatch):
    monkeypatch.setattr(decisions, "MAX_REQUESTS", 2)
    worker = await world.add()

    for number in range(3):
        task = world.start(request_id=f"r{number}")
        await (await worker.submitted(number + 1)).send(end=FinishReason.LENGTH)
        await task

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(stub, "r0")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert "r0" in str(refused.value.details())
    assert (await ask(stub, "r2")).request_id == "r2"


async def test_what_first_tokens_take_beyond_the_prediction_is_learnt(world):
    worker = await world.add()
    before = world.placer.decisions.overhead_ms

    task = world.start()
    submission = await worker.submitted()
    await submission.send(world.ids("the quick"))
    await submission.send(end=FinishReason.LENGTH)
    await task
    await world.core.drained()

    assert world.placer.decisions.overhead_ms != before
    assert world.placer.decisions.output_tokens == len(world.ids("the quick"))


async def test_the_command_prints_a_requests_story(world, address, capsys):
    worker = await world.add()
    task = world.start()
    await (await worker.submitted()).send(end=FinishReason.LENGTH)
    await task
    await world.core.drained()

    code = await asyncio.to_thread(run_explain, address, "request-1", most=8)

    assert code == 0
    printed = capsys.readouterr().out
    assert "decode-0" in printed
    assert "ended: ok" in printed


async def test_the_command_says_what_to_do_about_an_unknown_request(address):
    with pytest.raises(CommandError, match=r"knows no request 'nobody'.*on its own address"):
        await asyncio.to_thread(run_explain, address, "nobody", most=8)
