"""The engine as both ends of a hand-off: reserve and resume, prefill and keep, quarantine."""

from __future__ import annotations

import pytest
from fake_model import (
    Collected,
    expected,
    greedy,
    holds_kv,
    make_engine,
    run_until_idle,
    spec_of,
    write_kv,
)

from baton.blocks import chain_keys, root_key
from baton.engine.engine import Engine
from baton.engine.types import NewToken, Reserved, SequenceSpec
from baton.errors import InvalidRequest
from baton.request import FinishReason, SamplingParams, TokenLogprobs

SAMPLED = SamplingParams(temperature=1.3, seed=77, max_tokens=10, ignore_eos=True)


def prompt(length: int, salt: int = 0) -> list[int]:
    return [2 + (salt * 17 + i * 13 + i * i) % 60 for i in range(length)]


def reserve(engine: Engine, spec: SequenceSpec, collected: Collected | None = None) -> Reserved:
    engine.add(spec)
    output = (collected or Collected()).take(engine.step())
    (reserved,) = output.reserved
    return reserved


def prefill(engine: Engine, spec: SequenceSpec) -> tuple[NewToken, list[tuple[int, bytes]]]:
    """A prefill worker's part: the first token, and (block, bytes) of the prompt."""
    engine.add(spec)
    pushed: list[int] = []
    drawn: list[NewToken] = []
    while engine.has_work:
        output = engine.step()
        for progress in output.progress:
            size = engine.layout.block_size
            assert len(progress.block_ids) == -(-progress.num_computed // size)
            assert list(progress.block_ids[: len(pushed)]) == pushed
            assert holds_kv(
                engine.arena, progress.block_ids, spec.token_ids[: progress.num_computed]
            )
            pushed = list(progress.block_ids[: progress.num_computed // size])
            last = progress
        drawn += output.tokens
    assert last.num_computed == len(spec.token_ids)
    (token,) = drawn
    return token, [(block, engine.arena.read(block)) for block in last.block_ids]


@pytest.mark.parametrize("length", [1, 3, 4, 5, 8, 9, 17])
def test_a_handed_off_sequence_draws_what_one_engine_draws(length: int) -> None:
    spec = spec_of("s", prompt(length), SAMPLED)
    first, blocks = prefill(make_engine(), spec_of("p", prompt(length), SAMPLED, prefill_only=True))
    engine = make_engine(block_size=4)
    engine.add(spec_of("other", prompt(6, 5), greedy(max_tokens=3)))
    collected = run_until_idle(engine)

    reserved = reserve(engine, spec_of("s", prompt(length), SAMPLED, receive=True), collected)
    assert not engine.has_work
    for (_, data), block in zip(blocks, reserved.block_ids, strict=True):
        engine.arena.write(block, data)
    engine.resume("s", length, NewToken("s", first.token_id))
    run_until_idle(engine, collected)

    assert (collected.tokens("s"), collected.ends()["s"].reason) == expected(spec)
    assert engine.num_used_blocks == 0
    assert collected.ends()["s"].stats.prefill_us == 0


def test_a_reservation_names_blocks_keys_and_what_is_cached() -> None:
    engine = make_engine()
    engine.add(spec_of("before", prompt(10), greedy(max_tokens=1)))
    run_until_idle(engine)

    reserved = reserve(engine, spec_of("s", prompt(16), receive=True))

    assert reserved.num_cached_tokens == 8
    assert len(set(reserved.block_ids)) == 4
    assert list(reserved.block_keys) == chain_keys(root_key(engine.layout.namespace), prompt(16), 4)
    assert holds_kv(engine.arena, reserved.block_ids[:2], prompt(8))
    assert engine.step().load.num_receiving == 1


@pytest.mark.parametrize("arrived", range(8, 19))
def test_whatever_part_of_the_kv_arrived_the_rest_is_computed_here(arrived: int) -> None:
    engine = make_engine(max_batch_tokens=3)
    engine.add(spec_of("before", prompt(10), greedy(max_tokens=1)))
    collected = run_until_idle(engine)
    spec = spec_of("s", prompt(18), SAMPLED, receive=True)
    reserved = reserve(engine, spec, collected)

    write_kv(engine.arena, reserved.block_ids, prompt(arrived), start=8)
    engine.resume("s", arrived)
    run_until_idle(engine, collected)

    assert (collected.tokens("s"), collected.ends()["s"].reason) == expected(spec)
    assert collected.ends()["s"].stats.num_cached_tokens == 8


def test_only_computed_blocks_of_a_running_prompt_are_shared() -> None:
    engine = make_engine(max_batch_tokens=6)
    engine.add(spec_of("long", prompt(21), SAMPLED))
    engine.step()

    reserved = reserve(engine, spec_of("s", prompt(21), receive=True))

    # The step that reserved computed six tokens more, but only after it.
    assert reserved.num_cached_tokens == 4


def test_received_blocks_enter_the_prefix_cache() -> None:
    engine = make_engine()
    reserved = reserve(engine, spec_of("s", prompt(9), greedy(max_tokens=2), receive=True))
    write_kv(engine.arena, reserved.block_ids, prompt(9))

    engine.resume("s", 9, NewToken("s", 5))

    assert engine.cached_keys() == list(reserved.block_keys)
    (event,) = engine.step().block_events
    assert list(event.keys) == list(reserved.block_keys)


def test_a_received_token_obeys_the_same_rules_and_is_reported() -> None:
    def end_of(token: NewToken, **changes: object) -> tuple[list[NewToken], FinishReason | None]:
        engine = make_engine()
        spec = spec_of("s", prompt(9), greedy(**{"max_tokens": 5, **changes}), receive=True)
        reserved = reserve(engine, spec)
        write_kv(engine.arena, reserved.block_ids, prompt(9))
        engine.resume("s", 9, token)
        ends = [end.reason for end in engine._news.finished]
        return engine._news.tokens, ends[0] if ends else None

    token = NewToken("s", 1, TokenLogprobs(1, -0.25))
    assert end_of(token) == ([token], FinishReason.STOP)
    assert end_of(token, ignore_eos=True) == ([token], None)
    assert end_of(token, min_tokens=1) == ([token], None)
    assert end_of(token, ignore_eos=True, max_tokens=1) == ([token], FinishReason.LENGTH)
    assert end_of(NewToken("s", 7), stop_token_ids=(7,)) == (
        [NewToken("s", 7)],
        FinishReason.STOP,
    )


def test_a_received_token_comes_before_the_one_drawn_behind_it() -> None:
    engine = make_engine()
    spec = spec_of("s", prompt(5), greedy(max_tokens=4, ignore_eos=True), receive=True)
    reserved = reserve(engine, spec)
    write_kv(engine.arena, reserved.block_ids, prompt(5))
    drawn = expected(spec)[0]

    engine.resume("s", 5, NewToken("s", drawn[0]))

    assert [token.token_id for token in engine.step().tokens] == drawn[:2]


def test_resumes_that_contradict_the_state_are_refused_and_change_nothing() -> None:
    engine = make_engine()
    engine.add(spec_of("before", prompt(8), greedy(max_tokens=1)))
    collected = run_until_idle(engine)
    spec = spec_of("s", prompt(10), greedy(max_tokens=3), receive=True)
    reserved = reserve(engine, spec, collected)
    engine.add(spec_of("waiting", prompt(3)))

    for name, num_computed, token in (
        ("s", 7, None),
        ("s", 11, None),
        ("s", 9, NewToken("s", 5)),
        ("s", 10, NewToken("s", 64)),
        ("waiting", 3, None),
    ):
        with pytest.raises(InvalidRequest):
            engine.resume(name, num_computed, token)

    write_kv(engine.arena, reserved.block_ids, prompt(10), start=8)
    engine.resume("s", 10)
    run_until_idle(engine, collected)
    assert collected.tokens("s") == expected(spec)[0]
    engine.resume("s", 10)  # it has ended: nothing to say


def test_a_reservation_needs_no_place_in_the_batch_but_keeps_the_order_for_blocks() -> None:
    engine = make_engine(num_blocks=12, max_sequences=1)
    busy = spec_of("busy", prompt(5), greedy(max_tokens=20, ignore_eos=True))
    engine.add(busy)
    collected = Collected()
    collected.take(engine.step())
    engine.add(spec_of("first in line", prompt(17, 1), greedy(max_tokens=2)))
    engine.add(spec_of("small", prompt(5, 2), greedy(max_tokens=2), receive=True))
    engine.add(spec_of("large", prompt(21, 3), greedy(max_tokens=2), receive=True))

    output = collected.take(engine.step())
    assert [reserved.sequence_id for reserved in output.reserved] == ["small"]
    engine.resume("small", 0)
    run_until_idle(engine, collected)
    engine.resume("large", 0)
    run_until_idle(engine, collected)

    assert len(collected.ends()) == 4
    assert collected.tokens("busy") == expected(busy)[0]


def test_receiving_sequences_are_never_preempted() -> None:
    engine = make_engine(num_blocks=6)
    spec = spec_of("s", prompt(9), greedy(max_tokens=4, ignore_eos=True), receive=True, priority=-9)
    reserved = reserve(engine, spec)
    growing = spec_of("growing", prompt(7, 1), greedy(max_tokens=9, ignore_eos=True))
    engine.add(growing)

    collected = run_until_idle(engine)

    assert (engine.num_sequences, engine.num_used_blocks) == (2, 3)
    write_kv(engine.arena, reserved.block_ids, prompt(9))
    engine.resume("s", 9)
    run_until_idle(engine, collected)
    assert collected.tokens("s") == expected(spec)[0]
    assert collected.tokens("growing") == expected(growing)[0]
    assert collected.ends()["growing"].stats.num_preemptions > 0


def test_late_bytes_for_a_cancelled_sequence_hurt_nobody() -> None:
    engine = make_engine(num_blocks=6)
    engine.add(spec_of("before", prompt(4), greedy(max_tokens=1)))
    collected = run_until_idle(engine)
    reserved = reserve(engine, spec_of("s", prompt(13), receive=True), collected)

    engine.cancel("s")
    assert engine.num_used_blocks == 3  # the cached block is free at once
    other = spec_of("other", prompt(6, 4), greedy(max_tokens=4, ignore_eos=True))
    engine.add(other)
    collected.take(engine.step())
    for block in reserved.block_ids[1:]:
        engine.arena.write(block, b"\xff" * engine.layout.block_bytes)
    run_until_idle(engine, collected)

    assert collected.ends()["s"].reason is FinishReason.CANCELLED
    assert collected.tokens("other") == expected(other)[0]
    with pytest.raises(InvalidRequest, match="in use"):
        engine.add(spec_of("s", prompt(3)))
    engine.resume("s", 13)
    engine.release("s")
    engine.release("s")
    assert engine.num_used_blocks == 0


def test_who_waits_for_quarantined_blocks_goes_on_after_release() -> None:
    engine = make_engine(num_blocks=4)
    reserve(engine, spec_of("s", prompt(13), receive=True))
    engine.cancel("s")
    engine.add(spec_of("next", prompt(9, 2), greedy(max_tokens=2)))
    collected = run_until_idle(engine)
    assert not engine.has_work

    engine.release("s")

    assert len(run_until_idle(engine, collected).tokens("next")) == 2


def test_a_prefill_ends_after_any_one_token_and_keeps_its_blocks() -> None:
    engine = make_engine(num_blocks=8)
    spec = spec_of("p", prompt(9), greedy(logit_bias={1: 99.0}), prefill_only=True)
    engine.add(spec)

    collected = run_until_idle(engine)
    engine.add(spec_of("growing", prompt(9, 2), greedy(max_tokens=12, ignore_eos=True)))
    run_until_idle(engine, collected)

    assert collected.tokens("p") == [1]
    assert collected.ends()["p"].reason is FinishReason.LENGTH
    last = collected.outputs[0].progress[-1]
    assert holds_kv(engine.arena, last.block_ids, prompt(9))
    assert engine.num_used_blocks == 3
    engine.cancel("p")  # it has ended already
    assert engine.num_used_blocks == 3
    engine.release("p")
    engine.release("p")
    assert engine.num_used_blocks == 0


def test_a_cancelled_prefill_keeps_nothing() -> None:
    engine = make_engine(max_batch_tokens=4)
    engine.add(spec_of("p", prompt(9), prefill_only=True))
    engine.step()

    engine.cancel("p")

    assert engine.num_used_blocks == 0
    assert run_until_idle(engine).ends()["p"].reason is FinishReason.CANCELLED


def test_a_prefill_is_not_preempted_while_its_blocks_travel() -> None:
    engine = make_engine(num_blocks=8, max_batch_tokens=2)
    growing = spec_of("growing", prompt(2, 3), greedy(max_tokens=14, ignore_eos=True), priority=1)
    travelling = spec_of("travelling", prompt(19), prefill_only=True)
    for spec in (growing, travelling):
        engine.add(spec)
    collected = run_until_idle(engine)
    engine.release("travelling")
    run_until_idle(engine, collected)

    ends = collected.ends()
    assert ends["travelling"].stats.num_preemptions == 0
    assert ends["growing"].stats.num_preemptions > 0
    assert collected.tokens("growing") == expected(growing)[0]


def test_samples_of_a_received_prompt_wait_for_it_and_share_it() -> None:
    engine = make_engine()
    first = spec_of("s0", prompt(13), SAMPLED, receive=True)
    rest = [spec_of(f"s{i}", prompt(13), SAMPLED, sample_index=i, after="s0") for i in (1, 2)]
    reserved = reserve(engine, first)
    for spec in rest:
        engine.add(spec)
    assert not engine.has_work
    write_kv(engine.arena, reserved.block_ids, prompt(13))

    engine.resume("s0", 13, NewToken("s0", expected(first)[0][0]))
    collected = run_until_idle(engine)

    for spec in (first, *rest):
        assert collected.tokens(spec.sequence_id) == expected(spec)[0]
    assert [collected.ends()[s.sequence_id].stats.num_cached_tokens for s in rest] == [12, 12]


def test_a_resume_that_comes_after_the_cancel_gives_the_blocks_back() -> None:
    engine = make_engine()
    reserve(engine, spec_of("s", prompt(9), receive=True))
    engine.cancel("s")
    engine.step()
    assert engine.num_used_blocks == 3

    engine.resume("s", 9, NewToken("s", 5))

    assert engine.num_used_blocks == 0
