"""tritonclient's streams: many requests on one, parts, ends and errors."""

from __future__ import annotations

import asyncio
import time

import pytest

from baton.request import FinishReason
from tests.support.fake_decode import eventually
from tests.support.triton_door import TEXT, TritonDoor, by_id, said, spec


@pytest.fixture
def door(triton_door: TritonDoor) -> TritonDoor:
    return triton_door


async def test_requests_on_one_stream_are_answered_side_by_side(door):
    door.worker.script = None
    specs = [spec(id="a"), spec(id="b"), spec(id="c", parameters={"max_tokens": 3})]
    asked = asyncio.create_task(door.triton("stream", requests=specs))
    first, second, third = [await door.worker.submitted(number) for number in (1, 2, 3)]
    the, fox = door.world.ids("the"), door.world.ids(" fox")

    # The last one first, the others a piece at a time.
    await third.send(fox, end=FinishReason.LENGTH)
    await first.send(the)
    await second.send(fox)
    await first.send(fox, end=FinishReason.LENGTH)
    await second.send(the, end=FinishReason.STOP)
    told = by_id(await asked)

    ids = {submission.request_id for submission in (first, second, third)}
    assert ids == {"a", "b", "c"}
    assert said(told[first.request_id]) == "the fox"
    assert said(told[second.request_id]).startswith(" fox")
    assert said(told[third.request_id]) == " fox"
    for events in told.values():
        finals = [event["parameters"]["triton_final_response"] for event in events]
        reasons = [event["outputs"]["finish_reason"][0] for event in events]
        assert finals == [False] * (len(events) - 1) + [True]
        assert [bool(reason) for reason in reasons] == finals


async def test_an_empty_final_response_ends_each_answer_when_asked_for(door):
    specs = [spec(id="a"), spec(id="b")]
    told = by_id(await door.triton("stream", requests=specs, empty_final=True))

    for events in told.values():
        finals = [event["parameters"]["triton_final_response"] for event in events]
        assert finals == [False] * (len(events) - 1) + [True]
        assert events[-1]["outputs"] == {}
        assert (events[-1]["model"], events[-1]["version"]) == ("toy", "1")
        assert events[-2]["outputs"]["finish_reason"] == ["length"]
        assert said(events) == TEXT


@pytest.mark.parametrize("is_empty_final", [False, True])
async def test_a_stream_gives_a_whole_answer_when_told_not_to_stream(door, is_empty_final):
    requests = [spec(["stream", "BOOL", [1], [False]], id="a")]
    events = await door.triton("stream", requests=requests, empty_final=is_empty_final)

    assert events[0]["outputs"] == {"text_output": [TEXT], "finish_reason": ["length"]}
    finals = [event["parameters"]["triton_final_response"] for event in events]
    assert finals == ([False, True] if is_empty_final else [True])


async def test_an_error_ends_its_request_and_leaves_the_stream(door):
    specs = [
        spec(id="a", model="other"),
        spec(id="b", parameters={"max_tokens": -1}),
        spec(parameters={"beam_width": 4}),
        spec(id="c"),
    ]
    events = await door.triton("stream", requests=specs)

    errors = sorted(event["error"] for event in events if "error" in event)
    good = [event for event in events if "error" not in event]
    assert [error.partition("]")[0] for error in errors[:2]] == ["[request id: a", "[request id: b"]
    assert "'other' is not served" in errors[0]
    assert "max_tokens is -1" in errors[1]
    assert errors[2].startswith("beam_width is not known; known: max_tokens,")
    assert {event["id"] for event in good} == {"c"}
    assert said(good) == TEXT


async def test_a_client_that_leaves_its_stream_frees_the_worker_within_a_second(door):
    door.worker.script = None
    asked = asyncio.create_task(
        door.triton("stream", requests=[spec(id="a"), spec(id="b")], leave_after=1)
    )
    first, second = [await door.worker.submitted(number) for number in (1, 2)]

    await first.send(door.world.ids("the"))
    await asked
    left_at = time.monotonic()
    for submission in (first, second):
        await door.worker.cancelled(submission)
    await eventually(lambda: door.world.core.num_requests == 0)

    assert time.monotonic() - left_at < 1.0


async def test_a_requests_own_timeout_ends_it_on_the_stream(door):
    door.worker.script = None
    [event] = await door.triton("stream", requests=[spec(id="a", timeout=100_000)])

    assert event["error"].startswith("[request id: a] the request's 0.1 s are over")
