"""Steps launched before the last one's tokens are read: what overlaps, and what it must not cost.

That every history of calls draws the same tokens is `test_engine_stateful.py`'s affair.
"""

from __future__ import annotations

import numpy as np
import pytest
from fake_model import expected, greedy, make_engine, run_until_idle, spec_of
from numpy.typing import NDArray

from baton.engine.engine import Engine
from baton.request import FinishReason, SamplingParams

PROMPT = (3, 14, 15, 9, 26)


class Evens:
    """A guide that allows even tokens, after no more than it has taken."""

    fault = ""
    is_complete = False

    def __init__(self) -> None:
        self.taken: list[int] = []

    def fill(self, mask: NDArray[np.int32]) -> None:
        mask[:] = 0x55555555

    def allows(self, token_id: int) -> bool:
        return token_id % 2 == 0

    def advance(self, token_id: int) -> None:
        self.taken.append(token_id)


def num_launched(engine: Engine) -> int:
    return len(engine._runner._transformer.batches)  # type: ignore[attr-defined]


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_a_step_is_launched_before_the_last_ones_tokens_are_handed_out(looks_ahead: bool) -> None:
    engine = make_engine(looks_ahead=looks_ahead)
    engine.add(spec_of("s", PROMPT, greedy(max_tokens=3, ignore_eos=True)))
    seen = []

    while engine.has_work:
        tokens = [token.token_id for token in engine.step().tokens]
        seen.append((num_launched(engine), tokens))

    one, two, three = expected(spec_of("s", PROMPT, greedy(max_tokens=3, ignore_eos=True)))[0]
    if looks_ahead:
        # The last token's step is read without another one being launched: its end was foreseen.
        assert seen == [(1, []), (2, [one]), (3, [two]), (3, [three])]
    else:
        assert seen == [(1, [one]), (2, [two]), (3, [three])]
    assert engine.step().load.num_wasted_tokens == 0


def test_a_stop_that_is_found_late_costs_one_token_that_nobody_sees() -> None:
    free = expected(spec_of("s", PROMPT, greedy(max_tokens=9, ignore_eos=True)))[0]
    stop = next(token for index, token in enumerate(free) if index and token not in free[:index])
    spec = spec_of("s", PROMPT, greedy(max_tokens=9, ignore_eos=True, stop_token_ids=(stop,)))
    engine = make_engine(looks_ahead=True)
    engine.add(spec)

    collected = run_until_idle(engine)

    assert (collected.tokens("s"), collected.ends()["s"].reason) == expected(spec)
    assert collected.ends()["s"].stats.num_output_tokens == len(collected.tokens("s"))
    assert collected.outputs[-1].load.num_wasted_tokens == 1
    assert engine.num_used_blocks == 0


def test_a_cancelled_sequence_in_flight_ends_at_once_and_is_drawn_for_nobody() -> None:
    engine = make_engine(looks_ahead=True)
    for name in ("gone", "stays"):
        engine.add(spec_of(name, PROMPT, greedy(max_tokens=4, ignore_eos=True)))
    engine.step()
    engine.step()

    engine.cancel("gone")
    engine.add(spec_of("gone", PROMPT, greedy(max_tokens=2, ignore_eos=True)))  # a name may return
    collected = run_until_idle(engine)

    wanted = expected(spec_of("s", PROMPT, greedy(max_tokens=4, ignore_eos=True)))[0]
    reasons = [end.reason for output in collected.outputs for end in output.finished]
    assert reasons == [FinishReason.CANCELLED, FinishReason.LENGTH, FinishReason.LENGTH]
    assert collected.tokens("stays") == wanted[1:]
    assert collected.tokens("gone") == wanted[:2]
    assert collected.outputs[-1].load.num_wasted_tokens == 1


def test_only_what_needs_the_last_token_makes_a_draw_wait() -> None:
    def late_draws(sampling: SamplingParams, **rest: object) -> int:
        engine = make_engine(looks_ahead=True)
        engine.add(spec_of("plain", PROMPT, greedy(max_tokens=5, ignore_eos=True)))
        engine.add(spec_of("other", PROMPT, sampling, **rest))
        return run_until_idle(engine).outputs[-1].load.num_late_draws

    free = SamplingParams(max_tokens=5, ignore_eos=True, top_p=0.9, min_tokens=2, logprobs_count=1)
    guide = Evens()

    assert late_draws(free) == 0
    # The first of five draws knows all tokens before it.
    assert late_draws(greedy(max_tokens=5, ignore_eos=True, presence_penalty=1.0)) == 4
    assert late_draws(greedy(max_tokens=5, ignore_eos=True), matcher=guide) == 4
    assert len(guide.taken) == 5
    assert all(token % 2 == 0 for token in guide.taken)


def test_nobody_is_preempted_for_a_token_that_is_not_wanted() -> None:
    prompts = {"stops": [5, 6, 7, 8, 9, 10], "ends": [15, 16, 17, 18, 19, 20]}
    free = greedy(max_tokens=3, ignore_eos=True)
    third = expected(spec_of("s", prompts["stops"], free))[0][2]
    sampling = greedy(max_tokens=9, ignore_eos=True, stop_token_ids=(third,), min_tokens=2)
    # Two blocks of 4 each. Behind its third token, the ninth, "stops" would need another.
    engine = make_engine(looks_ahead=True, num_blocks=4)
    engine.add(spec_of("stops", prompts["stops"], sampling))
    engine.add(spec_of("ends", prompts["ends"], free))

    collected = run_until_idle(engine)

    assert [len(collected.tokens(name)) for name in prompts] == [3, 3]
    assert collected.ends()["stops"].reason is FinishReason.STOP
    assert collected.outputs[-1].load.num_preemptions == 0


def test_a_step_that_hands_out_nothing_reports_no_work() -> None:
    engine = make_engine(looks_ahead=True)
    engine.add(spec_of("s", PROMPT, greedy(max_tokens=2, ignore_eos=True)))

    loads = [engine.step().load for _ in range(3)]

    assert [(x.num_prompt_tokens, x.num_decode_tokens) for x in loads] == [(0, 0), (5, 0), (0, 1)]
    assert loads[0].step_us == 0
    assert loads[1].num_context_tokens == 5
