"""Rules that know no times: what each chooses, and that all keep to the same exclusions."""

from __future__ import annotations

from collections import Counter

import pytest

from baton.policy.decision import Decision
from baton.policy.routing import choose
from baton.policy.rules import REMOTE_TOKENS, Chooser, Routing, chooser
from baton.policy.table import WorkerTable
from baton.policy.workers import Prefill, RouteRequest, RoutingConfig, WorkerView
from baton.request import Role

CONFIG = RoutingConfig()
RULES = [routing for routing in Routing if routing is not Routing.PREDICTED]


def worker(worker_id: str, **facts: object) -> WorkerView:
    """An idle worker, but for these facts; its name begins with its role's letter."""
    role = Role.DECODE if worker_id.startswith("d") else Role.PREFILL
    return WorkerView(worker_id, role, num_blocks=2000, block_bytes=1 << 16, **facts)  # type: ignore[arg-type]


def route(
    by: Chooser,
    request: RouteRequest,
    *workers: WorkerView,
    config: RoutingConfig = CONFIG,
    draw: float = 0.0,
) -> Decision:
    return by(request, WorkerTable(workers, config), config, draw)


def test_predicted_is_the_policy_itself() -> None:
    assert chooser(Routing.PREDICTED) is choose


@pytest.mark.parametrize("names", ["d0 d1 d2", "d0 d1 d2 p0 p1"])
def test_round_robin_gives_everybody_a_turn(names: str) -> None:
    workers = [worker(name, num_running=len(name)) for name in names.split()]
    by = chooser(Routing.ROUND_ROBIN)

    decisions = [route(by, RouteRequest(400), *workers, draw=at / 12) for at in range(12)]

    assert set(Counter(d.decode_worker_id for d in decisions).values()) == {4}
    assert len(set(Counter(d.prefill_worker_id for d in decisions).values())) == 1


def test_round_robin_keeps_turns_apart_of_workers_that_are_asked_in_alternation() -> None:
    by = chooser(Routing.ROUND_ROBIN)
    one, other = [worker("d0"), worker("d1")], [worker("d2"), worker("d3")]

    chosen = [route(by, RouteRequest(9), *(one, other)[at % 2]).decode_worker_id for at in range(8)]

    assert Counter(chosen) == dict.fromkeys(("d0", "d1", "d2", "d3"), 2)


def test_the_least_load_is_chosen_of_either_role() -> None:
    by = chooser(Routing.LEAST_LOAD)
    workers = [
        worker("d0", num_running=3),
        worker("d1", num_running=2),
        worker("p0", num_queued_tokens=10),
        worker("p1"),
    ]

    decision = route(by, RouteRequest(4000, cached_blocks={"d0": 9, "p0": 9}), *workers)

    assert (decision.decode_worker_id, decision.prefill_worker_id) == ("d1", "p1")


def test_the_longest_prefix_is_chosen_unless_crowded() -> None:
    by = chooser(Routing.LONGEST_PREFIX)
    request = RouteRequest(4000, cached_blocks={"d0": 100})

    near = route(by, request, worker("d0", num_running=5), worker("d1"))
    crowded = route(by, request, worker("d0", num_running=50), worker("d1"))

    assert (near.decode_worker_id, near.num_uncached_tokens) == ("d0", 2400)
    assert crowded.decode_worker_id == "d1"


@pytest.mark.parametrize("routing", RULES)
@pytest.mark.parametrize(
    ("config", "num_tokens", "is_remote"),
    [
        (CONFIG, REMOTE_TOKENS, False),
        (CONFIG, REMOTE_TOKENS + 1, True),
        (RoutingConfig(remote_threshold_tokens=500), 500, False),
        (RoutingConfig(remote_threshold_tokens=500), 501, True),
        (RoutingConfig(prefill=Prefill.LOCAL), 4000, False),
        (RoutingConfig(prefill=Prefill.REMOTE), 17, True),
    ],
)
def test_length_says_who_computes(
    routing: Routing, config: RoutingConfig, num_tokens: int, is_remote: bool
) -> None:
    workers = [worker("d0"), worker("p0")]

    decision = route(chooser(routing), RouteRequest(num_tokens), *workers, config=config)

    assert bool(decision.prefill_worker_id) is is_remote


@pytest.mark.parametrize("routing", RULES)
@pytest.mark.parametrize(
    "fact", [{"is_reachable": False}, {"is_draining": True}, {"block_size": 1}]
)
def test_whoever_cannot_take_it_is_not_chosen(routing: Routing, fact: dict[str, object]) -> None:
    by, request = chooser(routing), RouteRequest(2001, excluded=frozenset({"d2"}))
    unfit, excluded, busy = worker("d0", **fact), worker("d2"), worker("d1", num_running=30)

    decision = route(by, request, unfit, excluded, busy)
    alone = route(by, request, unfit, excluded)

    assert decision.decode_worker_id == "d1"
    assert alone.chosen is None
    assert {rejected.worker_id for rejected in alone.rejected} == {"d0", "d2"}


@pytest.mark.parametrize("routing", RULES)
def test_whoever_failed_is_a_last_resort(routing: Routing) -> None:
    by, request = chooser(routing), RouteRequest(400, cached_blocks={"d0": 9})
    failed = [worker("d0", failure_ms=900.0), worker("p0", failure_ms=900.0)]

    beside = route(by, request, *failed, worker("d1", num_running=30), worker("p1"))
    alone = route(by, request, *failed)

    assert (beside.decode_worker_id, beside.prefill_worker_id) == ("d1", "p1")
    assert (alone.decode_worker_id, alone.prefill_worker_id) == ("d0", "")


@pytest.mark.parametrize("routing", RULES)
def test_blocks_of_another_namespace_are_not_handed_over(routing: Routing) -> None:
    workers = [worker("d0", namespace="x"), worker("p0", namespace="y")]

    assert route(chooser(routing), RouteRequest(4000), *workers).prefill_worker_id == ""


@pytest.mark.parametrize("routing", RULES)
def test_a_decision_says_which_rule_took_it_and_what_is_predicted(routing: Routing) -> None:
    workers = [worker("d0"), worker("p0")]

    decision = route(chooser(routing), RouteRequest(4000), *workers)

    assert routing.value in str(decision.explain()["route.reason"])
    assert decision.chosen == decision.weigh()[0]
    assert decision.chosen is not None
    assert decision.ttft_ms == pytest.approx(decision.chosen.ttft_ms)
