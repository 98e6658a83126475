"""Where requests go: the policy by examples, and what holds for any fleet."""

from __future__ import annotations

import dataclasses

import pytest

from baton.policy.decision import Decision
from baton.policy.learned import Learned, Road
from baton.policy.routing import choose
from baton.policy.stepmodel import StepModel
from baton.policy.table import WorkerTable
from baton.policy.weighing import TERMS
from baton.policy.workers import Prefill, RouteRequest, RoutingConfig, WorkerView
from baton.request import Role

CONFIG = RoutingConfig()
BLOCK_BYTES = 1 << 16


def decode(worker_id: str, **facts: object) -> WorkerView:
    """An idle decode worker, but for these facts."""
    sizes = {"num_blocks": 2000, "block_bytes": BLOCK_BYTES}
    return WorkerView(worker_id, Role.DECODE, **(sizes | facts))  # type: ignore[arg-type]


def prefill(worker_id: str, **facts: object) -> WorkerView:
    """An idle prefill worker, but for these facts."""
    sizes = {"num_blocks": 2000, "block_bytes": BLOCK_BYTES}
    return WorkerView(worker_id, Role.PREFILL, **(sizes | facts))  # type: ignore[arg-type]


def route(
    request: RouteRequest,
    *workers: WorkerView,
    config: RoutingConfig = CONFIG,
    draw: float = 0.0,
) -> Decision:
    return choose(request, WorkerTable(workers, config), config, draw)


def test_cached_blocks_are_worth_what_they_save() -> None:
    request = RouteRequest(4000, cached_blocks={"a": 200})

    near = route(request, decode("a", num_running=3), decode("b"))
    far = route(request, decode("a", num_queued_tokens=8000), decode("b"))

    assert near.decode_worker_id == "a"
    assert near.num_uncached_tokens == 800
    assert far.decode_worker_id == "b"


@pytest.mark.parametrize(
    "load",
    [
        {"num_running": 9},
        {"num_waiting": 9},
        {"num_receiving": 9},
        {"num_booked_sequences": 9},
        {"num_queued_tokens": 300},
        {"num_booked_tokens": 300, "num_new_tokens": 300},
    ],
)
def test_every_kind_of_load_counts(load: dict[str, int]) -> None:
    assert route(RouteRequest(400), decode("a", **load), decode("b")).decode_worker_id == "b"


def test_a_worker_without_room_is_better_than_none_only() -> None:
    full = decode("a", num_used_blocks=1990, num_running=2)

    assert route(RouteRequest(400), full, decode("b", num_running=4)).decode_worker_id == "b"
    assert route(RouteRequest(400), full).decode_worker_id == "a"


def test_what_a_worker_still_reports_but_has_ended_does_not_count() -> None:
    view = decode("a", num_running=5, num_queued_tokens=100)
    ended = dataclasses.replace(view, num_gone_sequences=5, num_gone_tokens=100)

    assert (view.num_sequences, view.num_pending_tokens) == (5, 100)
    assert (ended.num_sequences, ended.num_pending_tokens) == (0, 0)


def test_progress_shows_in_the_workers_word_and_news_in_the_books() -> None:
    half_done = decode("a", num_booked_tokens=1000, num_queued_tokens=500)
    just_booked = decode("a", num_booked_tokens=1000, num_new_tokens=1000)

    assert half_done.num_pending_tokens == 500
    assert just_booked.num_pending_tokens == 1000


def test_idle_workers_compute_where_no_hand_off_is_needed() -> None:
    decision = route(RouteRequest(400), decode("a"), prefill("p"))

    assert decision.prefill_worker_id == ""


def test_running_streams_are_spared_a_long_prompt() -> None:
    busy = decode("a", num_running=30)

    assert route(RouteRequest(8000), busy, prefill("p")).prefill_worker_id == "p"


def test_a_short_prompt_is_not_worth_a_hand_off() -> None:
    busy = decode("a", num_running=1)

    lengths = [
        num_tokens
        for num_tokens in range(20, 4000, 20)
        if route(RouteRequest(num_tokens), busy, prefill("p")).prefill_worker_id
    ]

    # A minimum length follows from the models: below it all are local, above it all are remote.
    assert lengths
    assert lengths[0] > 20
    assert lengths == list(range(lengths[0], 4000, 20))


def test_prompts_are_deflected_to_decode_workers_with_slack_when_prefill_queues() -> None:
    busy = decode("a", num_running=4)

    idle = route(RouteRequest(3000), busy, prefill("p"))
    queueing = route(RouteRequest(3000), busy, prefill("p", num_queued_tokens=20_000))

    assert idle.prefill_worker_id == "p"
    assert queueing.prefill_worker_id == ""


def test_an_itl_target_in_danger_keeps_prompts_away() -> None:
    def busy(itl_us: float) -> WorkerView:
        return decode("a", num_running=1, learned=Learned(itl_us=itl_us))

    queueing = prefill("p", num_queued_tokens=4000)

    request = RouteRequest(3000, target_ttft_ms=3000.0)

    assert route(request, busy(5_000), queueing).prefill_worker_id == ""
    assert route(request, busy(42_000), queueing).prefill_worker_id == "p"


def test_a_slow_road_is_avoided() -> None:
    slow, fast = Road(5000.0, 1.0), Road(500.0, 5000.0)
    worker = decode("a", num_running=30, learned=Learned(roads={"far": slow, "near": fast}))

    decision = route(RouteRequest(4000), worker, prefill("far"), prefill("near"))

    assert decision.prefill_worker_id == "near"


def test_a_slow_worker_gets_less() -> None:
    slow = Learned(steps=StepModel(decode_sequence_us=1000.0, prompt_token_us=900.0))

    decision = route(RouteRequest(400), decode("a", learned=slow), decode("b", num_running=2))

    assert decision.decode_worker_id == "b"


def test_blocks_in_kvstore_are_fetched_where_that_is_quicker() -> None:
    fast, slow = Learned(fetch=Road(1000.0, 2000.0)), Learned(fetch=Road(1000.0, 0.5))
    request = RouteRequest(4000, num_stored_blocks=200)

    fetched = route(request, decode("a", learned=fast))
    computed = route(request, decode("a", learned=slow))

    assert fetched.chosen is not None
    assert (fetched.chosen.num_fetched_tokens, fetched.chosen.num_computed_tokens) == (3200, 800)
    assert computed.num_uncached_tokens == 4000
    assert route(request, decode("a")).num_uncached_tokens == 4000  # it uses no kvstore


@pytest.mark.parametrize(("bytes_per_us", "is_fetched_first"), [(20_000.0, False), (1.0, True)])
def test_what_is_stored_comes_with_the_hand_off_unless_that_road_is_slower(
    bytes_per_us: float, is_fetched_first: bool
) -> None:
    fetch, handoff = Road(1000.0, 2000.0), Road(1000.0, bytes_per_us)
    worker = decode("a", num_running=30, learned=Learned(fetch=fetch, common=handoff))
    source = prefill("p", learned=Learned(fetch=fetch))
    request = RouteRequest(8000, num_stored_blocks=400)

    decision = route(request, worker, source, config=RoutingConfig(prefill=Prefill.REMOTE))

    assert decision.chosen is not None
    terms = dict(decision.chosen.terms)
    once_ms = fetch.us(400 * BLOCK_BYTES) / 1e3
    assert terms["fetch"] == pytest.approx(once_ms * (1 + is_fetched_first))
    moved = 500 - 400 * is_fetched_first
    assert terms["handoff"] <= handoff.us(moved * BLOCK_BYTES) / 1e3 + 0.01
    assert decision.ttft_ms == pytest.approx(decision.chosen.ttft_ms)


def test_a_peers_cache_is_a_source() -> None:
    request = RouteRequest(8000, cached_blocks={"p": 499})

    decision = route(request, decode("a", num_running=2), prefill("p"), prefill("q"))

    assert decision.prefill_worker_id == "p"
    assert decision.num_uncached_tokens == 16


def test_a_worker_that_failed_is_a_last_resort() -> None:
    failed = decode("a", failure_ms=10_000.0)

    assert route(RouteRequest(400), failed, decode("b", num_running=20)).decode_worker_id == "b"
    assert route(RouteRequest(400), failed).decode_worker_id == "a"


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        ({"is_reachable": False}, "unreachable"),
        ({"is_draining": True}, "draining"),
        ({"block_size": 1}, "too small"),
    ],
)
def test_unfit_workers_are_never_chosen(fact: dict[str, object], reason: str) -> None:
    decision = route(RouteRequest(2001), decode("a", **fact))

    assert decision.chosen is None
    assert reason in decision.rejected[0].reason


def test_excluded_workers_are_never_chosen() -> None:
    request = RouteRequest(400, excluded=frozenset({"a"}))

    assert route(request, decode("a"), decode("b", num_running=9)).decode_worker_id == "b"


def test_of_near_ties_two_are_drawn_and_the_cheaper_one_wins() -> None:
    workers = [decode(name) for name in "abc"]

    drawn = [route(RouteRequest(9), *workers, draw=at / 60) for at in range(60)]

    counts = [[d.decode_worker_id for d in drawn].count(name) for name in "abc"]
    assert all(counts)
    assert "drawn among 3" in drawn[0].reason


@pytest.mark.parametrize(("num_tokens", "is_remote"), [(64, False), (65, True)])
def test_a_fixed_rule_takes_the_place_of_predictions(num_tokens: int, is_remote: bool) -> None:
    rule = RoutingConfig(remote_threshold_tokens=64)

    decision = route(RouteRequest(num_tokens), decode("a"), prefill("p"), config=rule)

    assert (decision.prefill_worker_id == "p") is is_remote


def test_remote_prefill_can_be_off_or_always() -> None:
    workers = [decode("a", num_running=40), prefill("p")]

    never = route(RouteRequest(9000), *workers, config=RoutingConfig(prefill=Prefill.LOCAL))
    always = route(RouteRequest(100), *workers, config=RoutingConfig(prefill=Prefill.REMOTE))

    assert never.prefill_worker_id == ""
    assert always.prefill_worker_id == "p"


def test_a_prefill_worker_that_failed_has_no_right_by_rule() -> None:
    rule = RoutingConfig(remote_threshold_tokens=64)
    failed, other = prefill("p", failure_ms=900.0), prefill("q", num_queued_tokens=9000)

    alone = route(RouteRequest(400), decode("a"), failed, config=rule)
    beside = route(RouteRequest(400), decode("a"), failed, other, config=rule)

    assert alone.prefill_worker_id == ""
    assert beside.prefill_worker_id == "q"


def test_blocks_of_another_namespace_are_not_handed_over() -> None:
    workers = [decode("a", namespace="x", num_running=40), prefill("p", namespace="y")]

    assert route(RouteRequest(9000), *workers).prefill_worker_id == ""


def test_a_decision_says_what_it_weighed() -> None:
    decision = route(RouteRequest(4000), decode("a", num_running=9), prefill("p"))

    options = decision.weigh()
    told = decision.explain()

    assert {(o.decode_worker_id, o.prefill_worker_id) for o in options} == {("a", ""), ("a", "p")}
    assert [name for name, _ in options[0].terms] == list(TERMS)
    assert options[0].cost_ms == pytest.approx(sum(value for _, value in options[0].terms))
    assert options[0].ttft_ms == pytest.approx(sum(value for _, value in options[0].terms[:6]))
    assert told["route.decode.worker_id"] == "a"
    assert "a<-p" in str(told["route.options"])
