"""The policy of a step, on plain data."""

from __future__ import annotations

from dataclasses import dataclass

from baton.engine.scheduler import StepLimits, choose_victim, plan_chunks


@dataclass(frozen=True)
class Running:
    """A candidate."""

    order: tuple[int, int]
    num_uncomputed: int
    last_step: int = 0
    is_preemptible: bool = True


def running(*uncomputed: int, priority: int = 0) -> list[Running]:
    return [Running((-priority, arrival), n) for arrival, n in enumerate(uncomputed)]


def sizes(candidates: list[Running], tokens: int, sequences: int = 64) -> list[tuple[int, int]]:
    """(arrival, tokens) of the plan, in its order."""
    plan = plan_chunks(candidates, StepLimits(tokens, sequences))
    return [(candidate.order[1], n) for candidate, n in plan.items()]


def test_single_tokens_come_first_and_prompts_share_the_rest_in_order() -> None:
    assert sizes(running(20, 1, 9, 1), tokens=24) == [(1, 1), (3, 1), (0, 20), (2, 2)]


def test_a_prompt_gets_no_more_than_the_budget() -> None:
    assert sizes(running(20), tokens=7) == [(0, 7)]


def test_prompts_wait_while_single_tokens_fill_the_budget() -> None:
    assert sizes(running(1, 30, 1), tokens=2) == [(0, 1), (2, 1)]


def test_no_more_sequences_than_allowed_are_scheduled() -> None:
    assert sizes(running(1, 5, 5, 5), tokens=100, sequences=3) == [(0, 1), (1, 5), (2, 5)]


def test_single_tokens_that_do_not_all_fit_take_turns() -> None:
    waited = [Running((0, i), 1, last_step=9 if i < 2 else 8) for i in range(4)]

    assert sizes(waited, tokens=2) == [(2, 1), (3, 1)]


def test_priority_comes_before_turns() -> None:
    high = Running((-5, 7), 1, last_step=9)
    low = Running((0, 1), 1, last_step=3)

    assert sizes([high, low], tokens=1) == [(7, 1)]


def test_nothing_running_is_nothing_planned() -> None:
    assert sizes([], tokens=8) == []
    assert choose_victim([]) is None


def test_the_victim_is_the_latest_of_the_lowest_priority() -> None:
    candidates = [Running((-1, 9), 1), Running((0, 3), 1), Running((0, 5), 1)]

    assert choose_victim(candidates) is candidates[2]


def test_who_must_not_be_preempted_is_passed_over() -> None:
    candidates = [Running((0, 1), 1), Running((0, 2), 4, is_preemptible=False)]

    assert choose_victim(candidates) is candidates[0]
    assert choose_victim(candidates[1:]) is None
