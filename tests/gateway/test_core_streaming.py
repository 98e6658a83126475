"""One request, one worker: what the client gets while everything goes well."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from baton.request import FinishReason, SequenceTimings, TokenLogprobs
from services.gateway.types import Chunk, Final
from tests.support.fake_decode import Submitted, eventually
from tests.support.gateway_world import World, collect

ANSWER = "the quick brown fox jumps"


def script_of(world: World, text: str = ANSWER, *, stop: bool = True):
    tokens = world.ids(text) + ([world.eos] if stop else [])
    return lambda submission, sample: tokens


async def test_an_answer_streams_token_by_token_and_ends_with_one_final(world):
    worker = await world.add()
    ids = world.ids(ANSWER)
    task = world.start()
    submission = await worker.submitted()

    for token in ids:
        await submission.send([token])
    await submission.send([world.eos], end=FinishReason.STOP)
    answer = await task

    answer.assert_ended_exactly_once()
    assert answer.text() == ANSWER
    assert answer.tokens() == [*ids, world.eos]
    assert answer.final.num_output_tokens == len(ids) + 1
    assert answer.last().finish_reason is FinishReason.STOP
    assert answer.last().stop_token_id == world.eos


async def test_the_first_token_is_told_before_the_second_is_drawn(world):
    worker = await world.add()

    async with aclosing(world.core.generate(world.command())) as events:
        first = asyncio.ensure_future(anext(events))
        submission = await worker.submitted()
        await submission.send(world.ids("the"))
        chunk = await asyncio.wait_for(first, 5)

    assert isinstance(chunk, Chunk)
    assert chunk.text == "the"
    assert chunk.finish_reason is None


async def test_a_submission_carries_the_request_as_it_is(world):
    worker = await world.add()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    command = world.command(
        "Hello world",
        sample_count=2,
        cache_salt="tenant",
        priority=7,
        timeout_s=30.0,
        traceparent=parent,
        seed=99,
        min_tokens=3,
    )
    task = asyncio.create_task(collect(world.core, command))
    submission = await worker.submitted()
    task.cancel()
    message = submission.message

    assert submission.token_ids == list(command.token_ids)
    assert message.prompt_len == len(command.token_ids)
    assert (message.sample_index, message.sample_count) == (0, 2)
    assert (message.cache_salt, message.priority) == ("tenant", 7)
    assert 28_000 < message.timeout_ms <= 30_000
    assert (message.sampling.seed, message.sampling.min_tokens) == (99, 3)
    assert message.traceparent.startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert submission.connection.gateway_id == "gateway-0"


async def test_the_stop_token_is_counted_and_returned_but_says_nothing(world):
    worker = await world.add()
    stop = world.ids("fox")[0]
    spoken = world.text.decode([stop])
    assert spoken
    task = world.start(stop_token_ids=(stop,))
    submission = await worker.submitted()

    # The end comes in a frame of its own: until then nobody knows that this token is the last.
    await submission.send([*world.ids("the "), stop])
    await submission.send(end=FinishReason.STOP)
    answer = await task

    assert answer.text() == "the "
    assert answer.last().stop_token_id == stop
    assert answer.tokens()[-1] == stop
    assert answer.final.num_output_tokens == len(world.ids("the ")) + 1


async def test_a_token_that_only_looked_like_the_end_gets_its_text_back(world):
    worker = await world.add()
    # The worker knows better, say because min_tokens has not been reached.
    stop = world.ids("fox")[0]
    rest = world.ids("fox jumps")
    task = world.start(stop_token_ids=(stop,))
    submission = await worker.submitted()

    await submission.send([*world.ids("the "), stop])
    await submission.send(rest[1:], end=FinishReason.LENGTH)
    answer = await task

    assert answer.text() == "the fox jumps"
    assert answer.last().finish_reason is FinishReason.LENGTH
    assert answer.last().stop_token_id is None


async def test_a_character_cut_by_a_frame_is_shown_whole_or_not_at_all(world):
    worker = await world.add()
    text = "naïve 😀 café"
    task = world.start()
    submission = await worker.submitted()

    for token in world.ids(text):
        await submission.send([token])
    await submission.send(end=FinishReason.LENGTH)
    answer = await task

    assert answer.text() == text
    assert all("\ufffd" not in chunk.text for chunk in answer.chunks)


async def test_broken_bytes_at_the_end_come_out_replaced(world):
    worker = await world.add()
    smile = world.ids("😀")
    task = world.start()
    submission = await worker.submitted()

    await submission.send([*world.ids("a"), *smile[:-1]], end=FinishReason.LENGTH)
    answer = await task

    assert answer.text() == world.text.decode([*world.ids("a"), *smile[:-1]])
    assert "\ufffd" in answer.text()


async def test_samples_stream_side_by_side_under_their_own_index(world):
    worker = await world.add()
    answers = ["the lazy dog", "prefill", "Hello world, hello"]

    def script(submission: Submitted, sample: int) -> list[int]:
        return [*world.ids(answers[sample]), world.eos]

    worker.script = script
    answer = await world.ask(sample_count=3, stop_token_ids=(world.eos,))

    answer.assert_ended_exactly_once()
    assert [answer.text(sample) for sample in range(3)] == answers
    assert [sample.sample_index for sample in answer.final.samples] == [0, 1, 2]
    assert len(worker.submissions) == 1


async def test_log_probabilities_stay_beside_their_tokens(world):
    worker = await world.add()
    ids = world.ids("the quick")
    entries = [TokenLogprobs(token, -0.5, ((token, -0.5), (1, -2.0))) for token in ids]
    task = world.start(logprobs_count=2)
    submission = await worker.submitted()

    await submission.send(ids[:1], logprobs=entries[:1])
    await submission.send(ids[1:], logprobs=entries[1:], end=FinishReason.LENGTH)
    answer = await task

    told = [entry for chunk in answer.chunks for entry in chunk.logprobs]
    assert [entry.token_id for entry in told] == ids
    assert all(len(chunk.logprobs) == len(chunk.token_ids) for chunk in answer.chunks)


async def test_without_text_only_tokens_come(world):
    worker = await world.add()
    worker.script = script_of(world)
    answer = await world.ask(want_text=False, stop_token_ids=(world.eos,))

    assert answer.text() == ""
    assert answer.tokens() == [*world.ids(ANSWER), world.eos]
    assert answer.last().stop_token_id == world.eos


async def test_the_final_adds_up(world):
    worker = await world.add()
    task = world.start("Hello world, hello there!", seed=5, sample_count=2, tokenize_us=17)
    submission = await worker.submitted()
    timings = SequenceTimings(queue_us=3, cached_token_count=4, fetched_token_count=2)
    more = SequenceTimings(cached_token_count=7)

    await submission.send(world.ids("the"), sample=0, end=FinishReason.LENGTH, timings=timings)
    await submission.send(world.ids("a b"), sample=1, end=FinishReason.LENGTH, timings=more)
    final = (await task).final

    assert final.num_prompt_tokens == len(world.ids("Hello world, hello there!"))
    assert final.num_cached_tokens == 6  # the first to come computed the prompt
    assert final.num_output_tokens == len(world.ids("the")) + len(world.ids("a b"))
    assert (final.seed, final.tokenize_us) == (5, 17)
    assert 0 < final.ttft_us <= final.total_us
    assert 0 < final.route_us <= final.ttft_us
    assert final.samples[0].timings == timings
    assert final.samples[0].decode_worker_id == "decode-0"


async def test_a_client_that_is_behind_gets_fewer_and_longer_chunks(world):
    worker = await world.add()
    command = world.command(max_tokens=60)
    tokens = world.ids("x" * 50)
    got: list[Chunk | Final] = []

    async with aclosing(world.core.generate(command)) as events:
        first = asyncio.ensure_future(anext(events))
        submission = await worker.submitted()
        await submission.send(tokens[:1])
        got.append(await first)
        # The client does not read now, while 48 more frames arrive.
        for token in tokens[1:-1]:
            await submission.send([token])
        await submission.send(tokens[-1:], end=FinishReason.LENGTH)
        await eventually(lambda: world.fleet.decode_workers("toy")["decode-0"].link.num_open == 0)
        got += [event async for event in events]

    chunks = [event for event in got if isinstance(event, Chunk)]
    assert len(chunks) == 2
    assert "".join(chunk.text for chunk in chunks) == "x" * 50
    assert [t for chunk in chunks for t in chunk.token_ids] == tokens
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert isinstance(got[-1], Final)


async def test_many_requests_share_one_stream(world):
    worker = await world.add()
    worker.script = script_of(world)
    answers = await asyncio.gather(*(world.ask(stop_token_ids=(world.eos,)) for _ in range(40)))

    for answer in answers:
        answer.assert_ended_exactly_once()
        assert answer.text() == ANSWER
    assert worker.num_connects == 1


async def test_news_behind_the_end_are_ignored(world):
    worker = await world.add()
    task = world.start()
    submission = await worker.submitted()

    await submission.send(world.ids("the"), end=FinishReason.LENGTH)
    await submission.send(world.ids("late"))
    await submission.send(end=FinishReason.LENGTH)
    answer = await task

    answer.assert_ended_exactly_once()
    assert answer.text() == "the"
