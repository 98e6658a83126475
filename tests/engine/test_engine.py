"""The engine on a model that notices every wrong block: drawing, ending, refusing, measuring."""

from __future__ import annotations

import pytest
from fake_model import (
    EOS_ID,
    FakeModel,
    expected,
    fake_layout,
    greedy,
    make_engine,
    oracle_logits,
    run_until_idle,
    spec_of,
)

from baton.engine.engine import Engine
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, SequenceSpec
from baton.errors import InvalidRequest
from baton.request import FinishReason, SamplingParams


def prompt(length: int, salt: int = 0) -> list[int]:
    return [2 + (salt * 17 + i * 13 + i * i) % 60 for i in range(length)]


def assert_as_defined(specs: list[SequenceSpec], **sizes: int) -> Engine:
    """Runs specs together; each must draw what it draws alone, by definition."""
    engine = make_engine(**sizes)
    for spec in specs:
        engine.add(spec)
    collected = run_until_idle(engine)
    for spec in specs:
        end = collected.ends()[spec.sequence_id]
        drawn = (collected.tokens(spec.sequence_id), end.reason)
        assert drawn == expected(spec, engine.config.context_len), spec.sequence_id
        assert end.stats.num_output_tokens == len(spec.token_ids) - spec.prompt_len + len(drawn[0])
    assert (engine.num_used_blocks, engine.num_sequences) == (0, 0)
    assert engine.num_free_blocks == engine.config.num_blocks
    return engine


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 16, 64])
def test_prompts_of_all_lengths_together_draw_what_each_draws_alone(max_batch_tokens: int) -> None:
    specs = [
        spec_of(f"s{n}", prompt(n, salt=n), greedy(max_tokens=9))
        for n in (1, 3, 4, 5, 7, 8, 9, 15, 16, 17)
    ]

    assert_as_defined(specs, max_batch_tokens=max_batch_tokens)


@pytest.mark.parametrize("max_sequences", [1, 2, 3])
def test_few_places_in_a_batch_change_nothing_but_time(max_sequences: int) -> None:
    specs = [spec_of(f"s{n}", prompt(n, salt=n)) for n in (2, 9, 5, 6)]

    assert_as_defined(specs, max_sequences=max_sequences)


def test_seeds_and_samples_draw_their_own_streams() -> None:
    sampling = SamplingParams(temperature=1.5, seed=11, max_tokens=12, ignore_eos=True)
    specs = [spec_of(f"s{i}", prompt(6), sampling, sample_index=i) for i in range(3)]

    engine = assert_as_defined(specs)

    assert len({tuple(expected(spec)[0]) for spec in specs}) == 3
    assert engine.num_free_blocks == 64


def test_all_ways_to_bend_the_draw_are_passed_on() -> None:
    assert_as_defined(
        [
            spec_of("bias", prompt(5), greedy(max_tokens=6, logit_bias={7: 90.0})),
            spec_of("k", prompt(5), SamplingParams(temperature=0.8, top_k=3, seed=2)),
            spec_of("p", prompt(5), SamplingParams(temperature=2.0, top_p=0.5, min_p=0.1, seed=3)),
            spec_of(
                "penalties",
                prompt(9),
                greedy(
                    max_tokens=70,
                    repetition_penalty=1.9,
                    presence_penalty=1.5,
                    frequency_penalty=2.0,
                    ignore_eos=True,
                ),
            ),
        ]
    )


def test_a_migrated_sequence_goes_on_in_the_same_stream() -> None:
    sampling = SamplingParams(temperature=1.5, seed=5, max_tokens=14, ignore_eos=True, top_k=20)
    whole = spec_of("whole", prompt(6), sampling)
    tokens = expected(whole)[0]
    rest = spec_of("rest", [*prompt(6), *tokens[:5]], sampling, prompt_len=6)

    assert expected(rest)[0] == tokens[5:]
    assert_as_defined([rest])


def finding_eos(**changes: object) -> SequenceSpec:
    """A spec that draws EOS after at least two tokens."""
    for salt in range(1000):
        spec = spec_of("eos", prompt(5, salt), greedy(max_tokens=200, **changes))
        tokens, reason = expected(spec)
        if reason is FinishReason.STOP and len(tokens) > 2:
            return spec
    raise AssertionError("no prompt ends by itself")


def test_an_end_of_sequence_token_is_drawn_reported_and_ends() -> None:
    spec = finding_eos()

    assert expected(spec)[0][-1] == EOS_ID
    assert_as_defined([spec])


def test_ignore_eos_goes_on_and_min_tokens_forbids_stopping() -> None:
    spec = finding_eos()
    length = len(expected(spec)[0])
    ignoring = spec_of("ignore", spec.token_ids, greedy(max_tokens=length + 3, ignore_eos=True))
    lasting = spec_of(
        "min", spec.token_ids, greedy(max_tokens=length + 3, min_tokens=length, ignore_eos=False)
    )
    exact = spec_of("exact", spec.token_ids, greedy(max_tokens=200, min_tokens=length - 1))

    assert_as_defined([ignoring, lasting, exact])
    assert EOS_ID in expected(ignoring)[0]
    assert EOS_ID not in expected(lasting)[0][:length]
    assert expected(exact) == expected(spec)


def test_a_stop_token_ends_even_with_ignore_eos() -> None:
    free = spec_of("free", prompt(6), greedy(max_tokens=20, ignore_eos=True))
    stop = expected(free)[0][7]
    spec = spec_of("s", prompt(6), greedy(max_tokens=20, ignore_eos=True, stop_token_ids=(stop,)))

    assert expected(spec)[1] is FinishReason.STOP
    assert_as_defined([spec])


@pytest.mark.parametrize("room", [1, 2, 3, 4, 5])
def test_the_context_ends_a_sequence(room: int) -> None:
    spec = spec_of("s", prompt(20 - room), greedy(max_tokens=99, ignore_eos=True))

    engine = assert_as_defined([spec], context_len=20)

    assert len(expected(spec, engine.config.context_len)[0]) == room


def test_known_tokens_that_allow_no_further_one_end_at_once() -> None:
    engine = make_engine(context_len=12)
    engine.add(spec_of("full", prompt(12), greedy(max_tokens=9), prompt_len=8))
    engine.add(spec_of("spent", prompt(10), greedy(max_tokens=2), prompt_len=8))

    ends = run_until_idle(engine).ends()

    assert {end.reason for end in ends.values()} == {FinishReason.LENGTH}
    assert set(ends) == {"full", "spent"}


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        (spec_of("s", [], prompt_len=0), "token_ids", "at least 1 token"),
        (spec_of("s", prompt(32)), "token_ids", "32 tokens"),
        (spec_of("s", prompt(33), prompt_len=3), "token_ids", "33 tokens"),
        (spec_of("s", prompt(29)), "token_ids", "8 blocks, the engine has 7"),
        (spec_of("s", prompt(5), prompt_len=6), "prompt_len", "prompt_len 6"),
        (spec_of("s", prompt(5), prompt_len=0), "prompt_len", "prompt_len 0"),
        (spec_of("s", [2, 64]), "token_ids", "token id 64"),
        (spec_of("s", [2, -1]), "token_ids", "token id -1"),
        (spec_of("s", [2], greedy(logit_bias={64: 1.0})), "logit_bias", "token id 64"),
        (spec_of("taken", [2]), "sequence_id", "'taken' is in use"),
    ],
)
def test_what_can_never_run_is_refused(spec: SequenceSpec, field: str, words: str) -> None:
    engine = make_engine(num_blocks=7, context_len=32)
    engine.add(spec_of("taken", [3]))

    with pytest.raises(InvalidRequest, match=words) as caught:
        engine.add(spec)

    assert caught.value.field == field
    assert set(run_until_idle(engine).ends()) == {"taken"}


def test_stop_ids_outside_the_vocabulary_do_no_harm() -> None:
    spec = spec_of("s", prompt(3), greedy(max_tokens=4, min_tokens=4, stop_token_ids=(5000,)))

    assert_as_defined([spec])


def test_log_probabilities_are_those_of_the_raw_logits() -> None:
    engine = make_engine()
    engine.add(spec_of("s", prompt(6), greedy(max_tokens=3, logprobs_count=2, ignore_eos=True)))

    news = run_until_idle(engine).news("s")

    tokens = prompt(6)
    for token in news:
        logprobs = oracle_logits(tokens).log_softmax(-1)[0]
        assert token.logprobs is not None
        assert token.logprobs.logprob == logprobs[token.token_id].item()
        assert token.logprobs.top[0] == (token.token_id, logprobs.max().item())
        assert len(token.logprobs.top) == 2
        tokens.append(token.token_id)


def test_a_cancelled_sequence_ends_once_and_frees_its_blocks_at_once() -> None:
    engine = make_engine()
    engine.add(spec_of("running", prompt(9), greedy(max_tokens=99, ignore_eos=True)))
    engine.step()
    engine.add(spec_of("waiting", prompt(9)))
    assert engine.num_used_blocks == 3

    for sequence_id in ("running", "waiting", "waiting", "unknown"):
        engine.cancel(sequence_id)

    assert (engine.num_used_blocks, engine.num_sequences) == (0, 0)
    assert engine.has_work
    ends = run_until_idle(engine).ends()
    assert {name: end.reason for name, end in ends.items()} == {
        "running": FinishReason.CANCELLED,
        "waiting": FinishReason.CANCELLED,
    }
    assert not engine.has_work


def test_an_idle_engine_has_no_work_and_a_step_does_no_harm() -> None:
    engine = make_engine()

    output = engine.step()

    assert not engine.has_work
    assert (output.tokens, output.finished, output.load.num_blocks) == ([], [], 64)


def test_load_counts_a_steps_work_and_the_state_behind_it() -> None:
    engine = make_engine(max_batch_tokens=10)
    engine.add(spec_of("first", prompt(6), greedy(max_tokens=9, ignore_eos=True)))
    engine.add(spec_of("second", prompt(9, salt=1), greedy(max_tokens=9, ignore_eos=True)))
    engine.add(spec_of("third", prompt(5, salt=2), greedy(max_tokens=9, ignore_eos=True)))

    first, second = engine.step().load, engine.step().load

    assert (first.num_prompt_tokens, first.num_decode_tokens, first.num_context_tokens) == (
        10,
        0,
        6 + 4,
    )
    assert (first.num_running, first.num_waiting, first.num_used_blocks) == (2, 1, 2 + 3)
    assert first.num_waiting_tokens == 1 + 5 + 5
    assert (second.num_prompt_tokens, second.num_decode_tokens, second.num_context_tokens) == (
        5 + 4,
        1,
        7 + 9 + 4,
    )
    assert (second.num_running, second.num_waiting) == (3, 0)
    assert second.num_waiting_tokens == 1 + 1 + 1


def test_stats_say_where_time_went() -> None:
    engine = make_engine()
    spec = spec_of("s", prompt(9), greedy(max_tokens=5, ignore_eos=True))
    engine.add(spec)
    run_until_idle(engine)
    engine.add(spec)

    stats = run_until_idle(engine).ends()["s"].stats

    assert (stats.num_cached_tokens, stats.num_output_tokens, stats.num_preemptions) == (8, 5, 0)
    assert min(stats.queue_us, stats.prefill_us, stats.decode_us) >= 0
    assert stats.prefill_us > 0


def test_the_same_calls_make_the_same_batches() -> None:
    def batches() -> list[tuple[int, ...]]:
        engine = make_engine(num_blocks=12, max_batch_tokens=7)
        for i in range(6):
            spec = spec_of(f"s{i}", prompt(3 + i, salt=i), greedy(max_tokens=12), priority=i % 2)
            engine.add(spec)
        run_until_idle(engine)
        return engine._runner._transformer.batches  # type: ignore[attr-defined]

    assert batches() == batches()


def test_sizes_that_contradict_each_other_are_refused() -> None:
    arena = TensorArena(fake_layout(4), 8)

    with pytest.raises(ValueError, match="does not fit a config of 9 blocks"):
        Engine(ModelRunner(FakeModel(), arena), EngineConfig(9, 4), arena)
    with pytest.raises(ValueError, match="at least 1"):
        Engine(ModelRunner(FakeModel(), arena), EngineConfig(8, 4, max_batch_tokens=0), arena)
