"""When a failing peer is asked again."""

from __future__ import annotations

from baton.transfer.breaker import FIRST_PAUSE_S, LAST_PAUSE_S, Breaker


def test_a_failing_peer_is_tried_once_a_pause() -> None:
    breaker = Breaker()
    breaker.fail(100.0)

    before = breaker.may_try(100.0 + FIRST_PAUSE_S - 0.01)
    after = breaker.may_try(100.0 + FIRST_PAUSE_S)
    breaker.begin(100.0 + FIRST_PAUSE_S)
    meanwhile = breaker.may_try(100.0 + FIRST_PAUSE_S + 0.01)

    assert (before, after, meanwhile) == (False, True, False)


def test_pauses_double_up_to_a_limit() -> None:
    breaker = Breaker()
    pauses = []

    for _ in range(6):
        breaker.fail(0.0)
        pauses.append(breaker.retry_at)

    assert pauses == [1.0, 2.0, 4.0, 8.0, LAST_PAUSE_S, LAST_PAUSE_S]


def test_an_outage_begins_and_ends_once() -> None:
    breaker = Breaker()

    begins = [breaker.fail(0.0), breaker.fail(1.0)]
    ends = [breaker.succeed(), breaker.succeed()]

    assert (begins, ends) == ([True, False], [True, False])
    assert breaker.may_try(0.0)
