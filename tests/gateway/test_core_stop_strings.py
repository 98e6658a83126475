"""Stop strings, which only the gateway knows about."""

from __future__ import annotations

import pytest

from baton.request import FinishReason, SequenceTimings
from services.gateway import requests
from tests.support.fake_decode import eventually


@pytest.mark.parametrize("num_per_frame", [1, 2, 3, 100])
async def test_what_is_found_does_not_depend_on_how_frames_were_cut(world, num_per_frame):
    worker = await world.add()
    tokens = world.ids("the quick STOP brown fox")
    task = world.start(stop_strings=("STOP",))
    submission = await worker.submitted()

    for at in range(0, len(tokens), num_per_frame):
        await submission.send(tokens[at : at + num_per_frame])
    await worker.cancelled(submission)
    answer = await task

    num_until = next(n for n in range(len(tokens)) if "STOP" in world.text.decode(tokens[: n + 1]))
    answer.assert_ended_exactly_once()
    assert answer.text() == "the quick "
    assert answer.tokens() == tokens[: num_until + 1]
    assert answer.last().stop_string == "STOP"
    assert answer.last().stop_token_id is None
    assert answer.final.samples[0].finish_reason is FinishReason.STOP
    assert answer.final.num_output_tokens == num_until + 1


async def test_no_part_of_a_stop_string_is_ever_told(world):
    worker = await world.add()
    task = world.start(stop_strings=("the lazy dog",))
    submission = await worker.submitted()

    for token in world.ids("see the lazy cat and the lazy dog run"):
        await submission.send([token])
    answer = await task

    told = ""
    for chunk in answer.chunks:
        told += chunk.text
        assert "see the lazy cat and ".startswith(told)
    assert told == "see the lazy cat and "


async def test_the_worker_is_told_to_end_that_sample_only(world):
    worker = await world.add()
    task = world.start(stop_strings=("stop",), sample_count=2)
    submission = await worker.submitted()

    await submission.send(world.ids("please stop now"), sample=1)
    await worker.cancelled(submission)
    await submission.send(world.ids("go on"), sample=0, end=FinishReason.LENGTH)
    answer = await task

    assert submission.cancels == [1]
    assert answer.text(0) == "go on"
    assert answer.text(1) == "please "


async def test_the_final_carries_the_timings_of_a_sample_that_a_stop_string_ended(world):
    worker = await world.add()
    worker.end_timings = SequenceTimings(queue_us=11, cached_token_count=2)
    task = world.start(stop_strings=("fox",))
    submission = await worker.submitted()

    await submission.send(world.ids("the fox jumps"))
    answer = await task

    assert answer.final.samples[0].timings == SequenceTimings(queue_us=11, cached_token_count=2)


async def test_a_worker_that_never_confirms_does_not_hold_the_end_back(world, monkeypatch):
    monkeypatch.setattr(requests, "LINGER_SECONDS", 0.05)
    worker = await world.add()
    worker.ignores_cancels = True
    task = world.start(stop_strings=("fox",), sample_count=2)
    submission = await worker.submitted()

    await submission.send(world.ids("a fox"), sample=0)
    await submission.send(world.ids("b"), sample=1, end=FinishReason.LENGTH)
    answer = await task

    answer.assert_ended_exactly_once()
    assert [answer.text(0), answer.text(1)] == ["a ", "b"]


async def test_a_stop_string_does_not_end_a_sample_before_min_tokens(world):
    worker = await world.add()
    tokens = world.ids("stop here, stop there")
    task = world.start(stop_strings=("stop",), min_tokens=world.ids("stop here,").__len__())
    submission = await worker.submitted()

    for token in tokens:
        await submission.send([token])
    answer = await task

    assert answer.text() == "stop here, "
    assert answer.last().stop_string == "stop"


async def test_text_that_only_began_like_a_stop_string_comes_out_at_the_end(world):
    worker = await world.add()
    task = world.start(stop_strings=("dog house",))
    submission = await worker.submitted()

    await submission.send(world.ids("the dog"), end=FinishReason.LENGTH)
    answer = await task

    assert answer.text() == "the dog"
    assert answer.last().finish_reason is FinishReason.LENGTH


async def test_a_stop_string_may_show_only_when_the_last_bytes_come_out(world):
    worker = await world.add()
    task = world.start(stop_strings=("\ufffd",))
    submission = await worker.submitted()

    broken = world.ids("😀")[:-1]
    await submission.send([*world.ids("a"), *broken], end=FinishReason.LENGTH)
    answer = await task

    assert answer.text() == "a"
    assert answer.last().finish_reason is FinishReason.STOP
    assert answer.last().stop_string == "\ufffd"


async def test_stop_strings_work_without_text(world):
    worker = await world.add()
    tokens = world.ids("the fox")
    task = world.start(stop_strings=("fox",), want_text=False)
    submission = await worker.submitted()

    await submission.send([*tokens, *world.ids(" jumps")])
    answer = await task

    assert answer.text() == ""
    assert answer.tokens() == tokens
    assert answer.last().stop_string == "fox"


async def test_a_link_that_breaks_behind_a_stop_string_does_not_spoil_the_answer(world):
    worker = await world.add()
    worker.ignores_cancels = True
    task = world.start(stop_strings=("fox",))
    submission = await worker.submitted()

    await submission.send(world.ids("the fox"))
    await eventually(lambda: bool(submission.cancels))
    worker.break_streams()
    answer = await task

    answer.assert_ended_exactly_once()
    assert answer.text() == "the "
    assert len(worker.submissions) == 1
