"""The echo engine answers by its definition, whatever way its KV has taken."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from echo import EOS_IDS, VOCAB_SIZE, echo_end, echo_of, make_echo_engine
from fake_model import Collected, run_until_idle, spec_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from baton.blocks import KvLayout
from baton.engine.emulated import EmulatedRunner
from baton.engine.engine import Engine
from baton.engine.step_times import StepTimes
from baton.engine.types import NewToken, Reserved, SequenceSpec
from baton.request import FinishReason, SamplingParams

CONTEXT_LEN = 96
token_ids = st.integers(0, VOCAB_SIZE - 1)
# Few different beginnings, so that sequences share blocks.
prompts = st.builds(
    lambda start, length, tail: [(start + i) % VOCAB_SIZE for i in range(length)] + tail,
    st.integers(0, 1),
    st.integers(0, 40),
    st.lists(token_ids, min_size=1, max_size=6),
)


@st.composite
def specs(draw: st.DrawFn) -> list[SequenceSpec]:
    """Sequences to run side by side; some come with tokens emitted before a migration."""
    found = []
    for index, prompt in enumerate(draw(st.lists(prompts, min_size=1, max_size=6))):
        max_tokens = draw(st.integers(1, 30))
        sampling = SamplingParams(
            max_tokens=max_tokens,
            min_tokens=draw(st.integers(0, 4)),
            stop_token_ids=tuple(draw(st.lists(token_ids, max_size=2))),
            ignore_eos=draw(st.booleans()),
        )
        emitted = echo_of(prompt, draw(st.integers(0, max_tokens - 1)))
        found.append(spec_of(f"s{index}", prompt + emitted, sampling, prompt_len=len(prompt)))
    return found


def assert_echoes(collected: Collected, specs: list[SequenceSpec]) -> None:
    for spec in specs:
        end = collected.ends()[spec.sequence_id]
        assert (collected.tokens(spec.sequence_id), end.reason) == echo_end(spec, CONTEXT_LEN)


@pytest.mark.parametrize("max_batch_tokens", [700, 301, 133])
def test_chunks_of_many_blocks_are_written_whole_wherever_they_begin(max_batch_tokens: int) -> None:
    # As many tokens out as in: the answer reads every position back.
    prompt = [3 + 7 * place % 61 for place in range(700)]
    spec = spec_of("s", prompt, SamplingParams(max_tokens=700, ignore_eos=True))
    sizes = {"num_blocks": 400, "max_batch_tokens": max_batch_tokens, "context_len": 1500}
    engine = make_echo_engine(**sizes)

    engine.add(spec)
    collected = run_until_idle(engine)

    answer = (collected.tokens("s"), collected.ends()["s"].reason)
    assert answer == echo_end(spec, sizes["context_len"])


@given(specs(), st.integers(1, 40), st.integers(1, 6))
def test_answers_are_the_definitions_under_any_chunking_sharing_and_preemption(
    asked: list[SequenceSpec], max_batch_tokens: int, max_sequences: int
) -> None:
    # 24 blocks hold one sequence of the full context, not all of them.
    engine = make_echo_engine(
        num_blocks=24,
        max_batch_tokens=max_batch_tokens,
        max_sequences=max_sequences,
        context_len=CONTEXT_LEN,
    )
    for spec in asked:
        engine.add(spec)

    collected = run_until_idle(engine)

    assert_echoes(collected, asked)
    assert engine.num_used_blocks == 0


def prefill(engine: Engine, spec: SequenceSpec) -> tuple[NewToken, list[bytes]]:
    """A prefill worker's part: the first token, and the bytes of the known tokens' blocks."""
    engine.add(spec)
    outputs = []
    while engine.has_work:
        outputs.append(engine.step())
    (token,) = [token for output in outputs for token in output.tokens]
    last = [progress for output in outputs for progress in output.progress][-1]
    return token, [engine.arena.read(block) for block in last.block_ids]


def receive(engine: Engine, spec: SequenceSpec, blocks: list[bytes]) -> Reserved:
    """A decode worker's part: blocks are reserved and filled."""
    engine.add(spec)
    (reserved,) = engine.step().reserved
    for block_id, data in zip(reserved.block_ids, blocks, strict=True):
        engine.arena.write(block_id, data)
    return reserved


@given(prompts, st.integers(1, 30), st.sampled_from([(1, 1, "float32"), (3, 4, "bfloat16")]))
def test_a_handed_off_sequence_goes_on_where_the_other_engine_stopped(
    prompt: list[int], max_tokens: int, shape: tuple[int, int, str]
) -> None:
    num_layers, head_dim, dtype = shape
    layout = KvLayout(4, num_layers, 1, head_dim, dtype, "ab" * 16)
    sampling = SamplingParams(max_tokens=max_tokens)
    asked = spec_of("s", prompt, sampling, receive=True)
    first, blocks = prefill(
        make_echo_engine(layout, max_batch_tokens=5),
        spec_of("p", prompt, sampling, prefill_only=True),
    )
    engine = make_echo_engine(layout, context_len=CONTEXT_LEN)
    receive(engine, asked, blocks)

    engine.resume("s", len(prompt), NewToken("s", first.token_id))
    collected = run_until_idle(engine)

    assert_echoes(collected, [asked])


@pytest.mark.parametrize("num_arrived", range(11))
def test_what_did_not_arrive_is_computed_here(num_arrived: int) -> None:
    prompt = list(range(3, 13))
    _, blocks = prefill(make_echo_engine(), spec_of("p", prompt, prefill_only=True))
    engine = make_echo_engine(context_len=CONTEXT_LEN)
    asked = spec_of("s", prompt, SamplingParams(max_tokens=20), receive=True)
    receive(engine, asked, blocks)

    engine.resume("s", num_arrived)

    assert_echoes(run_until_idle(engine), [asked])


@pytest.mark.parametrize(("lost", "other"), list(itertools.permutations(range(3), 2)))
def test_a_block_in_anothers_place_shows_in_the_answer(lost: int, other: int) -> None:
    prompt = [7] * 12  # the ids alone would hide it
    _, blocks = prefill(make_echo_engine(), spec_of("p", prompt, prefill_only=True))
    engine = make_echo_engine()
    blocks[lost] = blocks[other]
    receive(engine, spec_of("s", prompt, SamplingParams(max_tokens=12), receive=True), blocks)

    engine.resume("s", 12, NewToken("s", 7))
    answer = run_until_idle(engine).tokens("s")

    wrong = [index // 4 for index, token_id in enumerate(answer) if token_id != 7]
    assert set(wrong) == {lost}


def test_a_block_that_nobody_wrote_shows_in_the_answer() -> None:
    engine = make_echo_engine()
    prompt = list(range(3, 15))
    engine.add(spec_of("s", prompt, SamplingParams(max_tokens=12), receive=True))
    engine.step()

    engine.resume("s", 12, NewToken("s", prompt[0]))

    assert run_until_idle(engine).tokens("s")[1:] != prompt[1:]


class OneOf:
    """A matcher with a set of tokens for each place; nothing may follow the last one."""

    fault = ""

    def __init__(self, *places: set[int]) -> None:
        self._places = list(places)

    @property
    def is_complete(self) -> bool:
        return not self._places

    def fill(self, mask: NDArray[np.int32]) -> None:
        mask[:] = 0
        for token_id in self._places[0]:
            mask.view(np.uint32)[token_id // 32] |= np.uint32(1 << token_id % 32)

    def allows(self, token_id: int) -> bool:
        return token_id in self._places[0]

    def advance(self, token_id: int) -> None:
        del self._places[0]


def test_under_a_guide_it_echoes_what_it_may_and_else_says_the_lowest_token_allowed() -> None:
    engine = make_echo_engine()
    matcher = OneOf({5, 40}, {63, 31}, {32, 7}, {60, 33})
    engine.add(spec_of("s", [5, 6, 7], SamplingParams(max_tokens=20), matcher=matcher))
    engine.add(spec_of("free", [5, 6, 7], SamplingParams(max_tokens=4)))

    collected = run_until_idle(engine)

    assert collected.tokens("s") == [5, 31, 7, 33]
    assert collected.ends()["s"].reason is FinishReason.STOP
    assert collected.tokens("free") == [5, 6, 7, 5]


def test_log_probabilities_say_that_the_echo_was_certain() -> None:
    engine = make_echo_engine()
    engine.add(spec_of("none", [5, 6], SamplingParams(max_tokens=1)))
    engine.add(spec_of("drawn", [5, 6], SamplingParams(max_tokens=1, logprobs_count=0)))
    engine.add(spec_of("top", [5, 6], SamplingParams(max_tokens=1, logprobs_count=4)))

    collected = run_until_idle(engine)

    found = {name: collected.news(name)[0].logprobs for name in ("none", "drawn", "top")}
    assert found["none"] is None
    assert (found["drawn"].token_id, found["drawn"].logprob, found["drawn"].top) == (5, 0.0, ())
    assert found["top"].top == ((5, 0.0),)


def test_a_prompt_of_end_of_sequence_ids_is_answered_to_its_full_length() -> None:
    engine = make_echo_engine()
    engine.add(spec_of("s", sorted(EOS_IDS), SamplingParams(max_tokens=9)))

    collected = run_until_idle(engine)

    assert collected.tokens("s") == [0] * 9
    assert collected.ends()["s"].reason is FinishReason.LENGTH


def test_an_emulated_step_takes_the_tables_time_and_echoes() -> None:
    echo = make_echo_engine()
    runner = EmulatedRunner(echo._runner, StepTimes({(0, 0, 0): 5_000.0}))  # type: ignore[arg-type]
    engine = Engine(runner, echo.config, echo.arena)
    engine.add(spec_of("s", [5, 6, 7], SamplingParams(max_tokens=4)))

    collected = run_until_idle(engine)

    assert collected.tokens("s") == [5, 6, 7, 5]
    assert all(output.load.step_us >= 5_000 for output in collected.outputs)


def test_a_layout_without_room_for_ids_and_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="no room for the ids and positions of 16 tokens"):
        make_echo_engine(KvLayout(16, 1, 1, 1, "bfloat16", "ab" * 16), block_size=16)
