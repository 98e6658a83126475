"""Between a request and its reader: order, merging, and the end."""

from __future__ import annotations

import asyncio

import pytest

from baton.errors import WorkerLost
from baton.request import FinishReason, TokenLogprobs
from services.gateway import mailbox
from services.gateway.mailbox import Mailbox
from services.gateway.types import Chunk


def chunk(token: int, sample: int = 0, reason: FinishReason | None = None) -> Chunk:
    entry = TokenLogprobs(token, -1.0)
    return Chunk(sample, f"<{token}>", (token,), (entry,), finish_reason=reason)


async def test_what_waits_for_a_sample_is_taken_as_one():
    box = Mailbox()
    for token in (1, 2, 3):
        box.put(chunk(token))
    box.put(chunk(4, reason=FinishReason.LENGTH))
    taken = await box.take()

    assert taken is not None
    assert taken.text == "<1><2><3><4>"
    assert taken.token_ids == (1, 2, 3, 4)
    assert [entry.token_id for entry in taken.logprobs] == [1, 2, 3, 4]
    assert taken.finish_reason is FinishReason.LENGTH
    assert box.num_merged == 3


async def test_samples_are_not_mixed_and_the_longest_wait_is_over_first():
    box = Mailbox()
    for token, sample in ((1, 1), (2, 0), (3, 1)):
        box.put(chunk(token, sample))

    first, second = await box.take(), await box.take()

    assert first is not None
    assert second is not None
    assert (first.sample_index, first.token_ids) == (1, (1, 3))
    assert (second.sample_index, second.token_ids) == (0, (2,))


async def test_a_chunk_does_not_grow_beyond_what_a_message_holds(monkeypatch):
    monkeypatch.setattr(mailbox, "MAX_CHUNK_TOKENS", 4)
    box = Mailbox()
    for token in range(10):
        box.put(chunk(token))
    box.close()

    taken = []
    while (part := await box.take()) is not None:
        taken.append(part.token_ids)

    assert taken == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]


async def test_a_reader_waits_for_news():
    box = Mailbox()
    reading = asyncio.create_task(box.take())
    await asyncio.sleep(0)

    waited = not reading.done()
    box.put(chunk(1))

    assert waited
    assert (await reading) == chunk(1)


async def test_an_error_comes_behind_what_was_told_before_it():
    box = Mailbox()
    box.put(chunk(1))
    box.close(WorkerLost("gone"))
    box.close()

    assert await box.take() == chunk(1)
    with pytest.raises(WorkerLost):
        await box.take()
    with pytest.raises(WorkerLost):
        await box.take()


async def test_a_good_end_stays_good():
    box = Mailbox()
    box.close()
    box.close(WorkerLost("late"))

    assert await box.take() is None
    assert await box.take() is None
