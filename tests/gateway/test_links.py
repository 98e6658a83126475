"""One link to one decode worker: frames, breaks, and ways to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from baton.errors import BatonError, EngineFailed, InvalidRequest, WorkerLost
from baton.request import FinishReason, PrefillMode, SamplingParams
from baton.tokens import TokenIds
from services.gateway import frames, links
from services.gateway.frames import Delta, Submission
from services.gateway.links import DecodeLink, LinkEnd
from services.gateway.types import GenerateCommand
from tests.support.fake_decode import FakeDecode, eventually


class Listener:
    """A sink that keeps all it is told."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.errors: list[BatonError] = []

    def on_delta(self, delta: Delta) -> None:
        self.deltas.append(delta)

    def on_lost(self, error: BatonError) -> None:
        self.errors.append(error)


class Broken(Listener):
    """A sink with a defect."""

    def on_delta(self, delta: Delta) -> None:
        raise KeyError("a defect of ours")


def submission(num_tokens: int = 3) -> Submission:
    command = GenerateCommand("request-1", "toy", TokenIds.of(range(num_tokens)), SamplingParams())
    return Submission(command, command.token_ids, 0, 1, deadline=time.monotonic() + 60)


def open_link(worker: FakeDecode) -> DecodeLink:
    return DecodeLink(LinkEnd("decode-0", worker.address, "gateway-0"), lambda _: None)


@pytest.fixture
async def worker() -> AsyncIterator[FakeDecode]:
    worker = await FakeDecode().start()
    yield worker
    await worker.stop()


@pytest.fixture
async def link(worker: FakeDecode) -> AsyncIterator[DecodeLink]:
    link = open_link(worker)
    await eventually(lambda: link.is_up, "the link is up")
    yield link
    await link.close()


async def test_a_link_is_up_once_the_worker_has_told_its_epoch(worker):
    worker.greets = False
    link = open_link(worker)

    await eventually(lambda: worker.num_connects == 1)
    before = link.is_up
    await link.close()

    assert not before
    assert link.epoch == ""


async def test_the_epoch_is_the_workers(worker, link):
    assert link.epoch == worker.epoch
    assert worker.connections[0].gateway_id == "gateway-0"


async def test_a_burst_is_written_as_few_frames_in_order(worker, link):
    handles = [link.submit(submission(), Listener()) for _ in range(50)]
    for handle in handles[::2]:
        link.cancel(handle, 0)
    await worker.submitted(50)

    assert [s.message.handle for s in worker.submissions] == handles
    assert worker.num_frames <= 3
    await eventually(lambda: all(s.cancels == [0] for s in worker.submissions[::2]))


async def test_long_prompts_are_spread_over_frames(worker, link, monkeypatch):
    monkeypatch.setattr(frames, "FRAME_BYTES", 4 * 100)
    for _ in range(10):
        link.submit(submission(num_tokens=60), Listener())
    await worker.submitted(10)

    assert worker.num_frames >= 5


async def test_what_is_cancelled_before_it_was_written_is_never_sent(worker, link):
    listener = Listener()
    withdrawn = link.submit(submission(), listener)
    link.cancel(withdrawn)
    link.forget(withdrawn)
    sent = link.submit(submission(), Listener())
    await worker.submitted()

    assert [s.message.handle for s in worker.submissions] == [sent]
    assert worker.submissions[0].cancels == []


async def test_handles_are_never_used_twice(worker, link):
    first = link.submit(submission(), Listener())
    worker.break_streams()
    await eventually(lambda: worker.num_connects == 2 and link.is_up)
    second = link.submit(submission(), Listener())

    assert second > first


async def test_all_that_is_open_is_lost_with_the_stream(worker, link):
    listeners = [Listener() for _ in range(3)]
    for listener in listeners:
        link.submit(submission(), listener)
    await worker.submitted(3)
    await worker.submissions[0].send([1], end=FinishReason.LENGTH)
    await eventually(lambda: bool(listeners[0].deltas))
    link.forget(1)

    worker.break_streams()
    await eventually(lambda: all(listener.errors for listener in listeners[1:]))

    assert listeners[0].errors == []
    assert all(isinstance(listener.errors[0], WorkerLost) for listener in listeners[1:])
    assert "decode-0" in listeners[1].errors[0].message
    assert link.num_open == 0


async def test_what_could_not_be_written_before_a_break_is_not_written_after_it(worker, link):
    worker.reads.clear()
    # More than a connection's window: some frames cannot leave.
    lost = [Listener() for _ in range(40)]
    for listener in lost:
        link.submit(submission(num_tokens=200_000), listener)
    await eventually(lambda: worker.connections != [])
    worker.break_streams()
    await eventually(lambda: all(listener.errors for listener in lost))
    num_before = len(worker.submissions)
    worker.reads.set()
    await eventually(lambda: worker.num_connects == 2 and link.is_up)

    handle = link.submit(submission(), Listener())
    await worker.submitted(num_before + 1)

    assert [s.message.handle for s in worker.submissions[num_before:]] == [handle]


async def test_a_prompt_that_no_frame_can_hold_is_refused_before_it_breaks_the_stream(worker, link):
    with pytest.raises(InvalidRequest, match="at most 1,032,192"):
        link.submit(submission(num_tokens=1_040_000), Listener())
    link.submit(submission(num_tokens=1_032_192), Listener())
    await worker.submitted()

    assert worker.num_connects == 1


async def test_a_link_that_is_down_refuses(worker):
    link = open_link(worker)

    with pytest.raises(WorkerLost, match="decode-0"):
        link.submit(submission(), Listener())
    await link.close()


async def test_a_worker_that_comes_late_is_found(worker):
    address = worker.address
    await worker.stop()
    link = open_link(worker)
    await asyncio.sleep(0)

    late = await FakeDecode().start(address)
    await eventually(lambda: link.is_up, "the late worker is linked")
    await link.close()
    await late.stop()


async def test_a_worker_that_does_not_answer_is_given_up_and_tried_again(worker, monkeypatch):
    monkeypatch.setattr(links, "HANDSHAKE_SECONDS", 0.1)
    worker.greets = False
    link = open_link(worker)
    await eventually(lambda: worker.num_connects >= 2, "a second attempt")
    worker.greets = True

    await eventually(lambda: link.is_up)
    await link.close()


async def test_one_defective_sink_does_not_take_the_others_with_it(worker, link):
    broken, sound = Broken(), Listener()
    link.submit(submission(), broken)
    link.submit(submission(), sound)
    first, second = await worker.submitted(), await worker.submitted(2)

    await worker.connections[0].send(first.delta([1]), second.delta([2]))
    await eventually(lambda: bool(sound.deltas))
    await worker.cancelled(first)

    assert isinstance(broken.errors[0], EngineFailed)
    assert sound.errors == []
    assert link.is_up


async def test_an_end_that_only_newer_workers_know_fails_its_own_submission(worker, link):
    puzzled, sound = Listener(), Listener()
    link.submit(submission(), puzzled)
    link.submit(submission(), sound)
    first, second = await worker.submitted(), await worker.submitted(2)
    unknown = first.delta([1], end=FinishReason.LENGTH)
    unknown.end.finish_reason = 99

    await worker.connections[0].send(unknown, second.delta([2], end=FinishReason.LENGTH))
    await eventually(lambda: bool(sound.deltas))

    [error] = puzzled.errors
    assert isinstance(error, EngineFailed)
    assert "finish_reason is 99" in error.message
    assert (puzzled.deltas, sound.errors) == ([], [])
    assert link.is_up


async def test_a_prefill_mode_that_only_newer_workers_know_fails_nothing(worker, link):
    listener = Listener()
    link.submit(submission(), listener)
    running = await worker.submitted()
    told = running.delta([1], end=FinishReason.LENGTH)
    told.end.timings.prefill_mode = 77

    await worker.connections[0].send(told)
    await eventually(lambda: bool(listener.deltas))

    assert listener.errors == []
    assert listener.deltas[0].end.reason is FinishReason.LENGTH
    assert listener.deltas[0].end.timings.prefill_mode is PrefillMode.LOCAL


async def test_a_retired_link_lets_running_submissions_end(worker, link):
    listener = Listener()
    handle = link.submit(submission(), listener)
    running = await worker.submitted()
    link.retire()

    usable = link.is_usable
    await running.send([1], end=FinishReason.LENGTH)
    await eventually(lambda: bool(listener.deltas))
    link.forget(handle)
    await eventually(lambda: link.is_closed)

    assert not usable
    assert listener.errors == []


async def test_a_retired_link_does_not_come_back(worker, link):
    listener = Listener()
    link.submit(submission(), listener)
    await worker.submitted()
    link.retire()

    worker.break_streams()
    await eventually(lambda: link.is_closed)

    assert listener.errors
    assert worker.num_connects == 1


async def test_a_retired_link_may_be_wanted_again(worker, link):
    link.submit(submission(), Listener())
    link.retire()

    is_back = link.revive()

    assert is_back
    assert link.is_usable


async def test_a_closed_link_cannot_be_revived(worker, link):
    link.retire()
    await eventually(lambda: link.is_closed)

    assert not link.revive()
    assert not link.is_usable


async def test_closing_tells_those_who_still_wait(worker):
    link = open_link(worker)
    await eventually(lambda: link.is_up)
    listener = Listener()
    link.submit(submission(), listener)
    await worker.submitted()

    await link.close()

    assert len(listener.errors) == 1
    await eventually(lambda: worker.connections == [])
