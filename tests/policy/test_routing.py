"""Where requests go: the rule by examples, and what holds for any fleet."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from baton.policy.decision import Standing
from baton.policy.routing import RouteRequest, RoutingConfig, WorkerView, choose
from baton.request import Role

CONFIG = RoutingConfig()


def decode(worker_id: str, **facts: object) -> WorkerView:
    """An idle decode worker, but for these facts."""
    return WorkerView(worker_id, Role.DECODE, num_blocks=1000, **facts)  # type: ignore[arg-type]


def prefill(worker_id: str, **facts: object) -> WorkerView:
    """An idle prefill worker, but for these facts."""
    return WorkerView(worker_id, Role.PREFILL, num_blocks=1000, **facts)  # type: ignore[arg-type]


def test_longest_prefix_wins_over_less_load() -> None:
    workers = [decode("a", num_cached_blocks=10, num_running=5), decode("b")]

    decision = choose(RouteRequest(400), workers, CONFIG, 0.0)

    assert decision.decode.worker_id == "a"
    assert decision.decode.reason == "longest prefix"
    assert decision.decode.num_cached_tokens == 160


def test_least_load_decides_between_equal_prefixes() -> None:
    workers = [decode("a", num_running=2), decode("b", num_running=1), decode("c", num_waiting=3)]

    decision = choose(RouteRequest(400), workers, CONFIG, 0.0)

    assert decision.decode.worker_id == "b"
    assert decision.decode.reason == "least load"


@pytest.mark.parametrize(
    "load",
    [
        {"num_waiting": 1},
        {"num_receiving": 1},
        {"num_booked_sequences": 1},
        {"num_queued_tokens": 300},
        {"num_booked_tokens": 300},
    ],
)
def test_every_kind_of_load_counts(load: dict[str, int]) -> None:
    workers = [decode("a", **load), decode("b")]

    assert choose(RouteRequest(400), workers, CONFIG, 0.0).decode.worker_id == "b"


def test_a_shared_first_block_does_not_pull_everything_to_one_worker() -> None:
    workers = [decode("a", num_cached_blocks=1, num_running=3), decode("b")]

    assert choose(RouteRequest(400), workers, CONFIG, 0.0).decode.worker_id == "b"


def test_a_crowded_worker_loses_its_prefix_advantage() -> None:
    workers = [decode("a", num_cached_blocks=20, num_running=9), decode("b")]

    decision = choose(RouteRequest(400), workers, CONFIG, 0.0)

    assert decision.decode.worker_id == "b"
    assert decision.decode.candidates[1].standing is Standing.CROWDED


@pytest.mark.parametrize("state", [{"num_waiting": 4}, {"num_used_blocks": 946}])
def test_a_saturated_worker_comes_last_but_is_better_than_none(state: dict[str, int]) -> None:
    saturated = decode("a", num_cached_blocks=20, **state)

    with_other = choose(RouteRequest(400), [saturated, decode("b", num_running=3)], CONFIG, 0.0)
    alone = choose(RouteRequest(400), [saturated], CONFIG, 0.0)

    assert with_other.decode.worker_id == "b"
    assert alone.decode.worker_id == "a"
    assert alone.decode.reason == "the only one"


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        ({"is_reachable": False}, "unreachable"),
        ({"is_draining": True}, "draining"),
        ({"block_size": 1}, "too small"),
    ],
)
def test_unfit_workers_are_never_chosen(fact: dict[str, object], reason: str) -> None:
    unfit = dataclasses.replace(decode("a"), **fact)  # type: ignore[arg-type]

    decision = choose(RouteRequest(2000), [unfit], CONFIG, 0.0)

    assert decision.decode.worker_id is None
    assert reason in decision.decode.rejected[0].reason


def test_a_request_goes_where_it_fits_without_preemption() -> None:
    full, roomy = decode("a", num_used_blocks=800), decode("b", num_used_blocks=700, num_running=1)

    short = choose(RouteRequest(149 * 16), [full, roomy], CONFIG, 0.0)
    long = choose(RouteRequest(151 * 16), [full, roomy], CONFIG, 0.0)
    many = choose(RouteRequest(140 * 16, num_sequences=20), [full, roomy], CONFIG, 0.0)

    assert short.decode.worker_id == "a"
    assert long.decode.worker_id == "b"
    assert many.decode.worker_id == "b"


def test_excluded_workers_are_never_chosen() -> None:
    request = RouteRequest(400, excluded=frozenset({"a"}))

    assert choose(request, [decode("a"), decode("b")], CONFIG, 0.0).decode.worker_id == "b"


def test_ties_are_drawn() -> None:
    workers = [decode("a"), decode("b"), decode("c"), decode("d", num_running=1)]

    drawn = [choose(RouteRequest(9), workers, CONFIG, at / 30).decode for at in range(30)]

    assert [drawn[at].worker_id for at in (0, 10, 20)] == ["a", "b", "c"]
    assert {choice.worker_id for choice in drawn} == {"a", "b", "c"}
    assert drawn[0].reason == "drawn among 3 equals"


@pytest.mark.parametrize(("num_tokens", "is_remote"), [(64, False), (65, True)])
def test_prefill_is_remote_above_the_threshold(num_tokens: int, is_remote: bool) -> None:
    decision = choose(RouteRequest(num_tokens), [decode("a"), prefill("p")], CONFIG, 0.0)

    assert (decision.prefill.worker_id == "p") is is_remote
    assert decision.num_uncached_tokens == num_tokens


def test_only_uncached_tokens_count_for_the_threshold() -> None:
    workers = [decode("a", num_cached_blocks=25), prefill("p")]

    decision = choose(RouteRequest(400), workers, CONFIG, 0.0)

    assert decision.prefill.worker_id is None
    assert decision.num_uncached_tokens == 1  # the last token is always computed


def test_remote_prefill_can_be_off_or_always() -> None:
    workers = [decode("a"), prefill("p")]
    never, always = (
        RoutingConfig(remote_threshold_tokens=None),
        RoutingConfig(remote_threshold_tokens=0),
    )

    assert choose(RouteRequest(9000), workers, never, 0.0).prefill.worker_id is None
    assert choose(RouteRequest(1), workers, always, 0.0).prefill.worker_id == "p"


def test_without_prefill_workers_decode_computes() -> None:
    decision = choose(RouteRequest(400), [decode("a")], CONFIG, 0.0)

    assert decision.decode.worker_id == "a"
    assert decision.prefill.worker_id is None
    assert "no prefill worker" in decision.prefill.reason


def test_prefill_goes_to_the_longest_prefix_then_the_shortest_queue() -> None:
    near = [prefill("p", num_queued_tokens=1000), prefill("q", num_queued_tokens=900)]
    cached = [*near, prefill("r", num_cached_blocks=10, num_queued_tokens=2000)]

    assert choose(RouteRequest(400), [decode("a"), *near], CONFIG, 0.0).prefill.worker_id == "q"
    assert choose(RouteRequest(400), [decode("a"), *cached], CONFIG, 0.0).prefill.worker_id == "r"


def test_bookings_count_as_queued_tokens() -> None:
    workers = [decode("a"), prefill("p", num_booked_tokens=500), prefill("q")]

    assert choose(RouteRequest(400), workers, CONFIG, 0.0).prefill.worker_id == "q"


def test_a_long_queue_outweighs_a_cached_prefix() -> None:
    workers = [
        decode("a"),
        prefill("p", num_cached_blocks=20, num_queued_tokens=5000),
        prefill("q"),
    ]

    assert choose(RouteRequest(400), workers, CONFIG, 0.0).prefill.worker_id == "q"


def test_blocks_of_another_namespace_are_not_handed_over() -> None:
    workers = [decode("a", namespace="x"), prefill("p", namespace="y")]

    decision = choose(RouteRequest(400), workers, CONFIG, 0.0)

    assert decision.prefill.worker_id is None
    assert decision.prefill.rejected[0].reason == "has other blocks"


def test_nobody_at_all_is_a_decision_too() -> None:
    decision = choose(RouteRequest(400), [], CONFIG, 0.5)

    assert decision.decode.worker_id is None
    assert decision.prefill.worker_id is None


def test_the_explanation_names_what_was_weighed() -> None:
    workers = [
        decode("a", num_cached_blocks=20),
        decode("b", num_waiting=9),
        decode("c", is_draining=True),
        prefill("p"),
    ]

    said = choose(RouteRequest(400), workers, CONFIG, 0.0).explain()

    assert said["route.decode.worker_id"] == "a"
    assert said["route.decode.candidates"] == (
        "a cached=320 load=0; b cached=0 load=9 saturated; c is draining"
    )
    assert said["route.prefill.worker_id"] == "p"
    assert said["route.uncached_tokens"] == 80


VIEWS = st.builds(
    WorkerView,
    worker_id=st.text("abcdef", min_size=1, max_size=4),
    role=st.sampled_from([Role.DECODE, Role.PREFILL]),
    namespace=st.sampled_from(["", "x"]),
    num_blocks=st.sampled_from([0, 10, 1000]),
    num_cached_blocks=st.integers(0, 40),
    num_running=st.integers(0, 20),
    num_waiting=st.integers(0, 6),
    num_queued_tokens=st.integers(0, 20_000),
    num_used_blocks=st.integers(0, 1000),
    num_booked_sequences=st.integers(0, 5),
    num_booked_tokens=st.integers(0, 5000),
    is_reachable=st.booleans(),
    is_draining=st.booleans(),
)
FLEETS = st.lists(VIEWS, max_size=8, unique_by=lambda view: view.worker_id)
REQUESTS = st.builds(RouteRequest, num_tokens=st.integers(1, 1000))
DRAWS = st.floats(0, 1, exclude_max=True)


@given(REQUESTS, FLEETS, DRAWS)
def test_whoever_is_chosen_is_fit_and_of_the_right_role(
    request: RouteRequest, fleet: list[WorkerView], draw: float
) -> None:
    decision = choose(request, fleet, CONFIG, draw)

    by_id = {view.worker_id: view for view in fleet}
    for choice, role in ((decision.decode, Role.DECODE), (decision.prefill, Role.PREFILL)):
        if choice.worker_id is not None:
            view = by_id[choice.worker_id]
            assert view.role is role
            assert view.is_reachable
            assert not view.is_draining
            assert choice.reason
    if decision.prefill.worker_id is not None:
        assert decision.num_uncached_tokens > 64
    if decision.decode.worker_id is not None:
        assert 1 <= decision.num_uncached_tokens <= request.num_tokens


@given(REQUESTS, FLEETS, DRAWS)
def test_a_fit_decode_worker_is_never_left_unused(
    request: RouteRequest, fleet: list[WorkerView], draw: float
) -> None:
    decision = choose(request, fleet, CONFIG, draw)

    has_fit = any(
        view.role is Role.DECODE
        and view.is_reachable
        and not view.is_draining
        and not 0 < view.num_blocks * view.block_size < request.num_tokens
        for view in fleet
    )
    assert (decision.decode.worker_id is not None) is has_fit


@given(REQUESTS, FLEETS, DRAWS, st.randoms())
def test_the_order_of_the_workers_does_not_matter(
    request: RouteRequest, fleet: list[WorkerView], draw: float, rng: object
) -> None:
    shuffled = list(fleet)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]

    assert choose(request, fleet, CONFIG, draw) == choose(request, shuffled, CONFIG, draw)


@given(REQUESTS, FLEETS, DRAWS)
def test_less_load_never_loses_a_request(
    request: RouteRequest, fleet: list[WorkerView], draw: float
) -> None:
    winner_id = choose(request, fleet, CONFIG, draw).decode.worker_id
    assume(winner_id is not None)

    relieved = [
        dataclasses.replace(view, num_running=0, num_waiting=0, num_queued_tokens=0)
        if view.worker_id == winner_id
        else view
        for view in fleet
    ]
    candidates = choose(request, relieved, CONFIG, draw).decode.candidates

    # It may have to share the first place, never to give it up.
    best = [entry.worker_id for entry in candidates if entry.rank == candidates[0].rank]
    assert winner_id in best


@given(REQUESTS, FLEETS, DRAWS)
def test_nobody_better_in_every_way_is_passed_over(
    request: RouteRequest, fleet: list[WorkerView], draw: float
) -> None:
    decision = choose(request, fleet, CONFIG, draw)

    chosen = [c for c in decision.decode.candidates if c.worker_id == decision.decode.worker_id]
    for other in decision.decode.candidates:
        for winner in chosen:
            better_standing = other.standing.value < winner.standing.value
            better_prefix = other.num_cached_tokens >= winner.num_cached_tokens + 64
            assert not (better_standing and better_prefix and other.load < winner.load)
