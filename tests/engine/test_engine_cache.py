"""The engine when blocks are shared or run out: prefix hits, children, preemption, events, pins."""

from __future__ import annotations

from fake_model import (
    Collected,
    expected,
    greedy,
    holds_kv,
    make_engine,
    run_until_idle,
    spec_of,
)

from baton.blocks import BlockKey, chain_keys, root_key
from baton.engine.engine import Engine
from baton.engine.types import BlockEventKind, SequenceSpec
from baton.request import FinishReason

ENDLESS = greedy(max_tokens=24, ignore_eos=True)


def prompt(length: int, salt: int = 0) -> list[int]:
    return [2 + (salt * 17 + i * 13 + i * i) % 60 for i in range(length)]


def assert_drawn(collected: Collected, *specs: SequenceSpec) -> None:
    for spec in specs:
        drawn = (collected.tokens(spec.sequence_id), collected.ends()[spec.sequence_id].reason)
        assert drawn == expected(spec), spec.sequence_id


def num_computed(engine: Engine) -> int:
    return sum(sum(lens) for lens in engine._runner._transformer.batches)  # type: ignore[attr-defined]


def test_a_prompt_seen_before_is_computed_from_its_last_token_on() -> None:
    for length in (4, 5, 8, 9, 11):
        engine = make_engine()
        first, again = (spec_of(name, prompt(length), greedy(max_tokens=1)) for name in "ab")
        engine.add(first)
        collected = run_until_idle(engine)
        engine.add(again)
        run_until_idle(engine, collected)

        assert_drawn(collected, first, again)
        cached = (length - 1) // 4 * 4
        assert collected.ends()["b"].stats.num_cached_tokens == cached
        assert num_computed(engine) == length + (length - cached)


def test_generated_blocks_are_found_by_the_next_turn() -> None:
    engine = make_engine()
    first = spec_of("first", prompt(6), greedy(max_tokens=12, ignore_eos=True))
    engine.add(first)
    collected = run_until_idle(engine)
    second = spec_of("second", [*prompt(6), *collected.tokens("first"), 9, 9], ENDLESS)
    engine.add(second)
    run_until_idle(engine, collected)

    assert_drawn(collected, first, second)
    assert collected.ends()["second"].stats.num_cached_tokens == 16  # 17 of 18 were computed


def test_another_salt_shares_nothing() -> None:
    engine = make_engine()
    engine.add(spec_of("a", prompt(9), cache_salt="tenant a"))
    collected = run_until_idle(engine)
    engine.add(spec_of("b", prompt(9), cache_salt="tenant b"))
    run_until_idle(engine, collected)

    assert collected.ends()["b"].stats.num_cached_tokens == 0


def test_two_that_compute_the_same_prompt_at_once_end_up_with_one_copy() -> None:
    engine = make_engine(max_batch_tokens=64)
    specs = [spec_of(name, prompt(9), ENDLESS) for name in "ab"]
    for spec in specs:
        engine.add(spec)

    collected = Collected()
    collected.take(engine.step())
    assert engine.num_used_blocks == 2 + 2
    run_until_idle(engine, collected)

    assert_drawn(collected, *specs)


def test_children_wait_for_their_parent_and_share_its_blocks() -> None:
    engine = make_engine(max_batch_tokens=8)
    parent = spec_of("parent", prompt(21), ENDLESS)
    children = [
        spec_of(f"child {i}", prompt(21), ENDLESS, sample_index=i, after="parent") for i in (1, 2)
    ]
    for spec in (parent, *children):
        engine.add(spec)

    collected = run_until_idle(engine)

    assert_drawn(collected, parent, *children)
    for child in children:
        assert collected.ends()[child.sequence_id].stats.num_cached_tokens == 20
    assert num_computed(engine) == (21 + 23) + 2 * (1 + 23)


def test_children_of_a_parent_that_is_gone_go_on() -> None:
    engine = make_engine(max_batch_tokens=4)
    parent = spec_of("p", prompt(9), ENDLESS, after="p")
    child = spec_of("c", prompt(9), ENDLESS, after="p")
    stranger = spec_of("s", prompt(9, 1), ENDLESS, after="nobody")
    for spec in (parent, child, stranger):
        engine.add(spec)
    collected = Collected()
    collected.take(engine.step())
    assert engine.step().load.num_waiting == 2

    engine.cancel("p")
    run_until_idle(engine, collected)

    assert_drawn(collected, child, stranger)
    assert collected.ends()["p"].reason is FinishReason.CANCELLED


def test_a_cancelled_child_that_stood_aside_is_gone() -> None:
    engine = make_engine(max_batch_tokens=4)
    engine.add(spec_of("p", prompt(9), ENDLESS))
    engine.add(spec_of("c", prompt(9), ENDLESS, after="p"))
    collected = Collected()
    collected.take(engine.step())

    engine.cancel("c")
    run_until_idle(engine, collected)

    assert collected.ends()["c"].reason is FinishReason.CANCELLED
    assert collected.tokens("c") == []


def test_a_child_does_not_wait_for_a_parent_behind_it() -> None:
    engine = make_engine(max_sequences=1)
    blocker = spec_of("blocker", prompt(20), ENDLESS, priority=9)
    parent = spec_of("parent", prompt(9, 1), ENDLESS, priority=-1)
    child = spec_of("child", prompt(9, 1), ENDLESS, after="parent")
    for spec in (blocker, parent, child):
        engine.add(spec)

    collected = run_until_idle(engine)

    ends = list(collected.ends())
    assert ends.index("child") < ends.index("parent")
    assert_drawn(collected, parent, child)


def test_children_ahead_of_a_preempted_parent_go_first_and_those_behind_stay_behind() -> None:
    engine = make_engine(num_blocks=8, max_batch_tokens=3)
    growing = spec_of("growing", prompt(3, 5), greedy(max_tokens=8, ignore_eos=True), priority=9)
    parent = spec_of("parent", prompt(22), greedy(max_tokens=2, ignore_eos=True), priority=-1)
    ahead, behind = (
        spec_of(name, prompt(22), greedy(max_tokens=2, ignore_eos=True), priority=p, after="parent")
        for name, p in (("ahead", 0), ("behind", -2))
    )
    collected = Collected()
    for spec in (growing, parent):
        engine.add(spec)
    collected.outputs += [engine.step(), engine.step()]  # both run now
    for spec in (ahead, behind):
        engine.add(spec)

    run_until_idle(engine, collected)

    assert list(collected.ends()) == ["growing", "ahead", "parent", "behind"]
    assert collected.ends()["parent"].stats.num_preemptions == 1
    assert_drawn(collected, growing, parent, ahead, behind)


def test_preempted_sequences_draw_the_same_and_the_latest_gives_way() -> None:
    engine = make_engine(num_blocks=10, max_batch_tokens=64)
    specs = [spec_of(f"s{i}", prompt(7 + i, salt=i), ENDLESS) for i in range(4)]
    for spec in specs:
        engine.add(spec)

    collected = run_until_idle(engine)

    assert_drawn(collected, *specs)
    preemptions = [collected.ends()[spec.sequence_id].stats.num_preemptions for spec in specs]
    assert preemptions[0] == 0
    assert sum(preemptions) == collected.outputs[-1].load.num_preemptions > 0
    assert engine.num_free_blocks == 10


def test_the_lowest_priority_is_preempted_first() -> None:
    engine = make_engine(num_blocks=8, max_batch_tokens=64)
    low = spec_of("low", prompt(7, 1), ENDLESS)
    high = spec_of("high", prompt(7, 2), ENDLESS, priority=3)
    for spec in (low, high):
        engine.add(spec)

    collected = run_until_idle(engine)

    assert_drawn(collected, low, high)
    assert collected.ends()["high"].stats.num_preemptions == 0
    assert collected.ends()["low"].stats.num_preemptions > 0


def test_a_sequence_that_outgrows_the_arena_alone_ends_with_an_error() -> None:
    engine = make_engine(num_blocks=4)
    engine.add(spec_of("s", prompt(5), greedy(max_tokens=99, ignore_eos=True)))
    engine.add(spec_of("behind", prompt(9, 1), greedy(max_tokens=2)))

    collected = run_until_idle(engine)

    end = collected.ends()["s"]
    assert (end.reason, end.error) == (FinishReason.ERROR, "17 tokens need more blocks than all 4")
    assert len(collected.tokens("s")) == 12
    assert len(collected.tokens("behind")) == 2
    assert engine.num_free_blocks == 4


def test_a_prompt_that_fills_the_arena_can_still_draw() -> None:
    engine = make_engine(num_blocks=4)
    spec = spec_of("s", prompt(16), greedy(max_tokens=1))
    engine.add(spec)

    assert_drawn(run_until_idle(engine), spec)


def test_higher_priority_is_admitted_first() -> None:
    engine = make_engine(max_sequences=1)
    for name, priority in (("a", 0), ("b", 5), ("c", 5), ("d", -2)):
        engine.add(spec_of(name, prompt(4), greedy(max_tokens=2), priority=priority))

    assert list(run_until_idle(engine).ends()) == ["b", "c", "a", "d"]


def test_events_replayed_give_the_cached_keys_through_eviction() -> None:
    engine = make_engine(num_blocks=9)
    replayed: list[BlockKey] = []
    kinds = set()
    for salt in range(6):
        engine.add(spec_of(f"s{salt}", prompt(9, salt), greedy(max_tokens=9, ignore_eos=True)))
        for output in run_until_idle(engine).outputs:
            for event in output.block_events:
                kinds.add(event.kind)
                if event.kind is BlockEventKind.STORED:
                    assert not set(event.keys) & set(replayed)
                    replayed += event.keys
                else:
                    for key in event.keys:
                        replayed.remove(key)

    assert kinds == {BlockEventKind.STORED, BlockEventKind.REMOVED}
    assert set(replayed) == set(engine.cached_keys())


def test_pinned_blocks_outlive_pressure_and_are_free_after_unpin() -> None:
    engine = make_engine(num_blocks=6)
    engine.add(spec_of("s", prompt(8), greedy(max_tokens=1)))
    run_until_idle(engine)
    keys = chain_keys(root_key(engine.layout.namespace), prompt(8), 4)
    unknown = BlockKey(b"?" * 16)

    pinned = engine.pin([*keys, unknown])
    engine.add(spec_of("big", prompt(14, 3), greedy(max_tokens=2)))
    collected = run_until_idle(engine)

    assert [key for key, _ in pinned] == keys
    assert holds_kv(engine.arena, [block for _, block in pinned], prompt(8))
    assert len(collected.tokens("big")) == 2
    assert engine.num_used_blocks == 2
    engine.unpin(keys)
    assert engine.num_used_blocks == 0


def test_who_waits_for_pinned_blocks_goes_on_after_unpin() -> None:
    engine = make_engine(num_blocks=6)
    engine.add(spec_of("s", prompt(8), greedy(max_tokens=1)))
    run_until_idle(engine)
    keys = chain_keys(root_key(engine.layout.namespace), prompt(8), 4)
    engine.pin(keys)
    big = spec_of("big", prompt(21, 3), greedy(max_tokens=2))
    engine.add(big)

    collected = run_until_idle(engine)
    assert (collected.ends(), engine.has_work, engine.num_sequences) == ({}, False, 1)
    engine.unpin(keys)

    assert_drawn(run_until_idle(engine, collected), big)
