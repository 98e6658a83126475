"""Requests that end early: the client leaves, time is up, there is no room, no worker, no model."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest

from baton.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NoWorker,
    Overloaded,
    UnknownModel,
)
from baton.request import FinishReason
from services.gateway.samples import Sample
from tests.support.fake_decode import FakeDecode, eventually
from tests.support.gateway_world import collect, open_world, record_of


async def test_a_client_that_leaves_frees_the_worker_at_once(world):
    worker = await world.add()

    async with aclosing(world.core.generate(world.command())) as events:
        first = asyncio.ensure_future(anext(events))
        submission = await worker.submitted()
        await submission.send(world.ids("the"))
        await first
    await worker.cancelled(submission)

    assert submission.cancels == [None]
    assert world.core.num_requests == 0


async def test_a_cancelled_task_cancels_its_request(world):
    worker = await world.add()
    task = world.start()
    submission = await worker.submitted()

    task.cancel()
    await worker.cancelled(submission)

    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.core.num_requests == 0


async def test_a_client_that_leaves_before_a_worker_came_leaves_nothing_behind(world):
    world.fleet.models.note(record_of(FakeDecode()))
    task = world.start()
    await eventually(lambda: world.core.num_requests == 1)

    task.cancel()
    await asyncio.wait([task])
    worker = await world.add()

    assert world.core.num_requests == 0
    assert worker.submissions == []


async def test_the_deadline_ends_the_request_and_frees_the_worker(world):
    worker = await world.add()
    began = time.monotonic()
    task = world.start(timeout_s=0.3)
    submission = await worker.submitted()
    await submission.send(world.ids("the"))

    answer = await task
    await worker.cancelled(submission)

    answer.assert_ended_exactly_once()
    assert isinstance(answer.error, DeadlineExceeded)
    assert 0.25 < time.monotonic() - began < 2.0
    assert answer.text() == "the"


async def test_the_deadline_holds_while_the_client_does_not_read(world):
    worker = await world.add()

    async with aclosing(world.core.generate(world.command(timeout_s=0.3))) as events:
        first = asyncio.ensure_future(anext(events))
        submission = await worker.submitted()
        await submission.send(world.ids("the"))
        await first
        await worker.cancelled(submission)
        with pytest.raises(DeadlineExceeded):
            await anext(events)


async def test_a_worker_whose_clock_was_first_means_the_same_deadline(world):
    worker = await world.add()
    task = world.start(timeout_s=0.5)
    submission = await worker.submitted()
    near = time.monotonic() + submission.message.timeout_ms / 1000 - 0.05

    await eventually(lambda: time.monotonic() > near, "the deadline is near")
    await submission.send(end=FinishReason.CANCELLED)
    answer = await task

    assert isinstance(answer.error, DeadlineExceeded)
    assert len(worker.submissions) == 1


async def test_one_request_too_many_is_told_when_to_come_back(model_folder):
    async with open_world(model_folder, max_requests=2) as world:
        worker = await world.add()
        running = [world.start(), world.start()]
        submission = await worker.submitted(2)

        refused = await world.ask()
        await submission.send(world.ids("the"), end=FinishReason.LENGTH)
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        again = world.start()
        third = await worker.submitted(3)
        await third.send(world.ids("a"), end=FinishReason.LENGTH)

        assert isinstance(refused.error, Overloaded)
        assert refused.error.retry_after_s
        assert "2" in refused.error.message
        assert (await again).text() == "a"
        for task in running:
            task.cancel()


async def test_a_request_waits_for_a_worker_that_is_about_to_come(world):
    world.fleet.models.note(record_of(FakeDecode()))
    task = world.start()
    await eventually(lambda: world.core.num_requests == 1)

    worker = await world.add()
    submission = await worker.submitted()
    await submission.send(world.ids("the"), end=FinishReason.LENGTH)

    assert (await task).text() == "the"


async def test_without_a_worker_the_wait_has_an_end(model_folder):
    async with open_world(model_folder, worker_wait_s=0.1) as world:
        world.fleet.models.note(record_of(FakeDecode()))
        answer = await world.ask()

        answer.assert_ended_exactly_once()
        assert isinstance(answer.error, NoWorker)
        assert "toy" in answer.error.message


async def test_the_deadline_bounds_the_wait_for_a_worker(world):
    world.fleet.models.note(record_of(FakeDecode()))
    answer = await world.ask(timeout_s=0.1)

    assert isinstance(answer.error, DeadlineExceeded)


async def test_a_model_nobody_ever_served_is_unknown_and_the_known_ones_are_named(world):
    await world.add()

    with pytest.raises(UnknownModel, match=r"'other'.*toy"):
        await world.core.text("other")


async def test_an_empty_name_means_the_only_model(world):
    await world.add()
    info, text = await world.core.text("")

    assert (info.name, info.context_len, info.num_decode_workers) == ("toy", 64, 1)
    assert text.decode(world.ids("fox")) == "fox"
    assert [model.name for model in world.core.models()] == ["toy"]


async def test_an_empty_name_does_not_choose_between_two_models(world):
    await world.add()
    other = FakeDecode("decode-1", model="other")
    other.address = "127.0.0.1:1"
    world.directory.up(record_of(other))

    with pytest.raises(InvalidRequest, match="other, toy"):
        await world.core.text("")


async def test_a_draining_gateway_takes_nothing_new_and_ends_what_it_has(world):
    worker = await world.add()
    running = world.start()
    submission = await worker.submitted()

    world.is_draining = True
    refused = await world.ask()
    drained = asyncio.create_task(world.core.drained())
    await submission.send(world.ids("the"), end=FinishReason.LENGTH)
    answer = await running
    await asyncio.wait_for(drained, 5)

    assert isinstance(refused.error, NoWorker)
    assert "draining" in refused.error.message
    assert answer.text() == "the"


async def test_what_the_grace_does_not_cover_ends_with_an_error(world):
    worker = await world.add()
    task = world.start()
    submission = await worker.submitted()

    await world.core.close()
    answer = await task
    await worker.cancelled(submission)

    answer.assert_ended_exactly_once()
    assert isinstance(answer.error, NoWorker)


async def test_an_error_that_is_the_requests_own_is_not_tried_elsewhere(world):
    first, second = await world.add("decode-0"), await world.add("decode-1")
    task = world.start()
    await eventually(lambda: bool(first.submissions or second.submissions))
    submission = (first.submissions or second.submissions)[0]

    await submission.fail(InvalidRequest("max_tokens is 9; the limit is 8", field="max_tokens"))
    answer = await task

    answer.assert_ended_exactly_once()
    assert isinstance(answer.error, InvalidRequest)
    assert answer.error.field == "max_tokens"
    assert len(first.submissions) + len(second.submissions) == 1


async def test_an_end_that_cannot_be_taken_in_is_no_silence(world, monkeypatch):
    first = await world.add("decode-0")

    def break_once(sample, delta):
        monkeypatch.undo()
        raise KeyError("a defect of ours")

    task = world.start()
    submission = await first.submitted()
    second = await world.add("decode-1")
    monkeypatch.setattr(Sample, "take", break_once)
    await submission.send(world.ids("the"), end=FinishReason.LENGTH)
    moved = await second.submitted()
    await moved.send(world.ids("fox"), end=FinishReason.LENGTH)
    answer = await task

    assert answer.final.samples[0].num_migrations == 1
    assert world.core.num_requests == 0


async def test_one_sample_that_fails_ends_the_others(world):
    worker = await world.add()
    task = world.start(sample_count=2)
    submission = await worker.submitted()

    await submission.fail(Cancelled("ended by hand"), sample=1)
    answer = await task
    await worker.cancelled(submission)

    answer.assert_ended_exactly_once()
    assert isinstance(answer.error, Cancelled)
    assert None in submission.cancels


async def test_ids_of_requests_may_repeat(world):
    worker = await world.add()
    tasks = [world.start(request_id="same"), world.start(request_id="same")]
    for number, text in enumerate(["one", "two"], start=1):
        submission = await worker.submitted(number)
        await submission.send(world.ids(text), end=FinishReason.LENGTH)

    assert [(await task).text() for task in tasks] == ["one", "two"]


async def test_a_worker_that_goes_has_its_link_closed(world):
    worker = await world.add()

    world.directory.down("decode-0")
    await eventually(lambda: not worker.connections)

    assert world.usable == []


async def test_a_generator_that_was_never_read_takes_no_room(world):
    await world.add()
    events = world.core.generate(world.command())
    await events.aclose()

    assert world.core.num_requests == 0
    assert (await collect(world.core, world.command(timeout_s=0.05))).error is not None
