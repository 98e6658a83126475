"""Samples that outlive their worker: the client sees one unbroken stream."""

from __future__ import annotations

import asyncio
import random

import pytest

from baton.errors import (
    EngineFailed,
    InvalidRequest,
    LayoutMismatch,
    NoWorker,
    TransferFailed,
    WorkerLost,
)
from baton.request import FinishReason
from services.gateway import core, metrics
from tests.support.fake_decode import FakeDecode, Submitted, eventually
from tests.support.gateway_world import World, open_world

ANSWER = "the quick brown fox jumps over the lazy dog. naïve 😀"


def draws(world: World, text: str = ANSWER):
    """A model: the same tokens on every worker, as counter-based sampling has it."""
    tokens = [*world.ids(text), world.eos]
    return lambda submission, sample: tokens


async def first_submission(*workers: FakeDecode) -> tuple[FakeDecode, Submitted]:
    """Wherever the request went."""
    await eventually(lambda: any(worker.submissions for worker in workers))
    return next((w, w.submissions[0]) for w in workers if w.submissions)


def other(worker: FakeDecode, workers: list[FakeDecode]) -> FakeDecode:
    return next(candidate for candidate in workers if candidate is not worker)


@pytest.mark.parametrize("num_frames", [1, 5, 12])
async def test_a_worker_lost_mid_stream_is_not_seen_by_the_client(world, num_frames):
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    for worker in workers:
        worker.script, worker.break_after = draws(world), num_frames
        worker.gate.clear()
    task = world.start(stop_token_ids=(world.eos,))
    lost, _ = await first_submission(*workers)
    heir = other(lost, workers)
    heir.break_after = None
    for worker in workers:
        worker.gate.set()

    answer = await task

    answer.assert_ended_exactly_once()
    assert answer.text() == ANSWER
    assert answer.tokens() == [*world.ids(ANSWER), world.eos]
    sample = answer.final.samples[0]
    assert sample.num_migrations == 1
    assert sample.decode_worker_id == heir.worker_id
    assert answer.final.num_output_tokens == len(world.ids(ANSWER)) + 1


async def test_the_heir_gets_prompt_and_emitted_tokens(world):
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    task = world.start("Hello world", sample_count=3, seed=4)
    lost, submission = await first_submission(*workers)
    for sample, text in enumerate(["the", "a", "fox jumps"]):
        await submission.send(world.ids(text), sample=sample)
    await submission.send(sample=1, end=FinishReason.LENGTH)
    lost.break_streams()
    heir = other(lost, workers)
    await heir.submitted(2)

    assert len(heir.submissions) == 2
    by_sample = {moved.message.sample_index: moved for moved in heir.submissions}
    assert by_sample.keys() == {0, 2}
    for index, text in ((0, "the"), (2, "fox jumps")):
        moved = by_sample[index].message
        assert by_sample[index].token_ids == [*world.ids("Hello world"), *world.ids(text)]
        assert moved.prompt_len == len(world.ids("Hello world"))
        assert (moved.sample_count, moved.sampling.seed) == (1, 4)
        assert moved.sampling.max_tokens == submission.message.sampling.max_tokens
        await by_sample[index].send(world.ids("!"), end=FinishReason.LENGTH)
    answer = await task
    assert [answer.text(sample) for sample in range(3)] == ["the!", "a", "fox jumps!"]
    assert [s.num_migrations for s in answer.final.samples] == [1, 0, 1]


async def test_the_same_worker_goes_on_once_it_is_back(world):
    worker = await world.add()
    worker.script, worker.break_after = draws(world), 4

    answer = await world.ask(stop_token_ids=(world.eos,))

    assert answer.text() == ANSWER
    assert worker.num_connects == 2
    assert len(worker.submissions) == 2


async def test_a_restarted_process_goes_on_with_what_another_began(world):
    worker = await world.add()
    task = world.start()
    submission = await worker.submitted()
    await submission.send(world.ids("the quick"))
    await eventually(lambda: world.core.num_requests == 1)

    await worker.stop()
    heir = FakeDecode("decode-0")
    heir.epoch = "decode-0-epoch-2"
    heir.script = draws(world, "the quick brown")
    await heir.start(worker.address)
    world.workers.append(heir)
    answer = await task

    assert answer.text() == "the quick brown"


@pytest.mark.parametrize(
    "error", [WorkerLost("gone"), TransferFailed("bad block"), NoWorker("is draining")]
)
async def test_an_error_that_may_be_retried_moves_the_sample(world, error):
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    before = metrics.migrations.labels(error.status.reason)._value.get()
    task = world.start()
    lost, submission = await first_submission(*workers)
    await submission.send(world.ids("the "))
    await submission.fail(error)
    moved = await other(lost, workers).submitted()
    await moved.send(world.ids("fox"), end=FinishReason.LENGTH)
    answer = await task

    assert answer.text() == "the fox"
    assert metrics.migrations.labels(error.status.reason)._value.get() == before + 1


async def test_tokens_that_come_with_an_error_are_kept(world):
    worker = await world.add()
    task = world.start()
    submission = await worker.submitted()

    await submission.send(world.ids("the "), error=WorkerLost("going down"))
    moved = await worker.submitted(2)
    await moved.send(world.ids("fox"), end=FinishReason.LENGTH)

    assert moved.emitted == world.ids("the ")
    assert (await task).text() == "the fox"


async def test_only_the_sample_that_failed_moves(world):
    worker = await world.add()
    task = world.start(sample_count=2)
    submission = await worker.submitted()

    await submission.send(world.ids("one "), sample=0)
    await submission.fail(WorkerLost("preempted for good"), sample=1)
    moved = await worker.submitted(2)
    await moved.send(world.ids("two"), end=FinishReason.LENGTH)
    await submission.send(world.ids("still"), sample=0, end=FinishReason.LENGTH)
    answer = await task

    assert answer.text(0) == "one still"
    assert answer.text(1) == "two"
    assert moved.message.sample_index == 1


async def test_news_from_a_worker_that_lost_the_sample_are_ignored(world):
    worker = await world.add()
    task = world.start(sample_count=2)
    submission = await worker.submitted()

    await submission.fail(WorkerLost("gone"), sample=0)
    moved = await worker.submitted(2)
    await submission.send(world.ids("ghost"), sample=0, end=FinishReason.LENGTH)
    await submission.send(world.ids("one"), sample=1, end=FinishReason.LENGTH)
    await moved.send(world.ids("real"), end=FinishReason.LENGTH)
    answer = await task

    assert [answer.text(0), answer.text(1)] == ["real", "one"]


async def test_an_engine_that_fails_twice_on_a_request_is_the_requests_fault(world):
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    task = world.start()
    lost, submission = await first_submission(*workers)

    await submission.fail(EngineFailed("a step raised"))
    moved = await other(lost, workers).submitted()
    await moved.fail(EngineFailed("a step raised again"))
    answer = await task

    answer.assert_ended_exactly_once()
    assert isinstance(answer.error, EngineFailed)
    assert sum(len(worker.submissions) for worker in workers) == 2


@pytest.mark.parametrize("error", [InvalidRequest("no"), LayoutMismatch("other blocks")])
async def test_an_error_that_would_come_again_is_told(world, error):
    workers = [await world.add(f"decode-{index}") for index in range(2)]
    task = world.start()
    _, submission = await first_submission(*workers)

    await submission.fail(error)
    answer = await task

    answer.assert_ended_exactly_once()
    assert type(answer.error) is type(error)
    assert sum(len(worker.submissions) for worker in workers) == 1


async def test_a_request_moves_only_so_often(model_folder, monkeypatch):
    monkeypatch.setattr(core, "MOVE_PAUSE_SECONDS", 0.001)
    async with open_world(model_folder, max_migrations=2) as world:
        worker = await world.add()
        task = world.start()
        for number in range(1, 4):
            submission = await worker.submitted(number)
            await submission.fail(WorkerLost(f"loss {number}"))
        answer = await task

        answer.assert_ended_exactly_once()
        assert isinstance(answer.error, WorkerLost)
        assert "loss 3" in answer.error.message
        assert len(worker.submissions) == 3


async def test_a_worker_lost_without_a_replacement_is_one_error(model_folder):
    async with open_world(model_folder, worker_wait_s=0.2) as world:
        worker = await world.add()
        tasks = [world.start(), world.start(sample_count=3)]
        submission = await worker.submitted(2)
        await submission.send(world.ids("the"))

        await worker.stop()
        answers = await asyncio.gather(*tasks)

        for answer in answers:
            answer.assert_ended_exactly_once()
            assert isinstance(answer.error, WorkerLost)
        assert world.core.num_requests == 0


@pytest.mark.parametrize("how", ["max_tokens", "stop token", "context"])
async def test_a_sample_that_had_all_its_tokens_needs_no_heir(world, how):
    worker = await world.add()
    tokens = world.ids("the fox")
    prompt = "Hello" if how != "context" else "x" * (64 - len(tokens))
    changes = {"max_tokens": len(tokens)} if how == "max_tokens" else {"max_tokens": 60}
    task = world.start(prompt, **changes)
    submission = await worker.submitted()
    assert how != "context" or len(submission.token_ids) + len(tokens) == 64

    # The last token has come, the word that it was the last has not.
    await submission.send([*tokens, world.eos] if how == "stop token" else tokens)
    worker.break_streams()
    answer = await task

    answer.assert_ended_exactly_once()
    assert answer.text() == "the fox"
    expected = FinishReason.STOP if how == "stop token" else FinishReason.LENGTH
    assert answer.final.samples[0].finish_reason is expected
    assert answer.final.samples[0].num_migrations == 0
    assert len(worker.submissions) == 1


async def test_a_client_that_leaves_while_its_sample_is_moved_is_forgotten(world):
    worker = await world.add()
    task = world.start()
    await worker.submitted()
    await worker.stop()
    await eventually(lambda: not world.usable)

    task.cancel()
    await asyncio.wait([task])
    heir = await world.add("decode-1")

    assert world.core.num_requests == 0
    assert heir.submissions == []


async def test_whatever_breaks_each_request_ends_once_and_its_text_is_whole(world):
    chance = random.Random(3)
    workers = [await world.add(f"decode-{index}") for index in range(3)]
    for worker in workers:
        worker.script = draws(world)
    tasks = [
        world.start(stop_token_ids=(world.eos,), sample_count=chance.choice([1, 2]))
        for _ in range(30)
    ]
    for _ in range(6):
        worker = chance.choice(workers)
        await worker.submitted()
        worker.break_after = chance.randint(1, 6)
        await eventually(lambda worker=worker: worker.break_after is None or all(map(done, tasks)))
    answers = await asyncio.gather(*tasks)

    for answer in answers:
        answer.assert_ended_exactly_once()
        assert answer.error is None
        for sample in answer.final.samples:
            assert answer.text(sample.sample_index) == ANSWER
    assert any(sample.num_migrations for answer in answers for sample in answer.final.samples)
    assert world.core.num_requests == 0


def done(task: asyncio.Task[object]) -> bool:
    return task.done()
