"""The simulator of routing: it loses no request, repeats itself, and the policy holds up in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baton.engine.step_times import read_step_times
from baton.policy.workers import RoutingConfig
from bench.routing.fleet import FleetSpec
from bench.routing.goodput import MAX_WORSE
from bench.routing.policies import policies
from bench.routing.processes import ARMS, Outcome, verdict_table
from bench.routing.simulator import Result, Run, Targets
from bench.routing.traces import Trace, made_up, read_trace
from bench.routing.workloads import points

TIMES = read_step_times(Path(__file__).parents[2] / "examples" / "step_times.csv")
TARGETS = Targets()
CONFIG = RoutingConfig(target_ttft_ms=TARGETS.ttft_ms, target_itl_ms=TARGETS.itl_ms)


def simulated(trace: Trace, name: str, num_gateways: int = 1) -> Result:
    run = Run(trace, policies()[name], TIMES, config=CONFIG, num_gateways=num_gateways)
    return run.result(TARGETS)


@pytest.mark.parametrize("name", policies())
def test_every_request_ends_under_every_policy(name: str) -> None:
    result = simulated(made_up("mixed", 60).sped_up(10), name)

    assert result.num_requests == 60
    assert 0 <= result.num_good <= 60


def test_a_run_repeats_itself() -> None:
    trace = made_up("mixed", 60).sped_up(10)

    assert simulated(trace, "ours") == simulated(trace, "ours")


@pytest.mark.slow
@pytest.mark.parametrize("speed", [4, 10, 20])
@pytest.mark.parametrize("kind", ["documents", "mixed", "bursts"])
def test_choosing_is_no_worse_than_the_better_of_two_fixed_rules(kind: str, speed: float) -> None:
    trace = made_up(kind, 250).sped_up(speed)

    better = max(simulated(trace, f"always {where}").num_good for where in ("local", "remote"))

    assert simulated(trace, "ours").num_good >= (1 - MAX_WORSE) * better - 1


def test_two_gateways_do_not_herd() -> None:
    trace = made_up("mixed", 200).sped_up(20)

    one, two = simulated(trace, "ours"), simulated(trace, "ours", num_gateways=2)

    assert two.num_good >= 0.9 * one.num_good


def test_first_tokens_come_when_they_were_predicted() -> None:
    result = simulated(made_up("mixed", 300).sped_up(10), "ours")

    assert result.prediction_error_ms < 0.2 * result.ttft_p50_ms


def test_a_trace_is_read_in_order_and_shrunk(tmp_path: Path) -> None:
    rows = [
        {"timestamp_ms": 50, "input_length": 100, "output_length": 1, "hash_ids": [1]},
        {"timestamp_ms": 20, "input_length": 900, "output_length": 7},
    ]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))

    trace = read_trace(path, 10, max_tokens=450)

    assert [request.num_tokens for request in trace.requests] == [450, 50]
    assert [request.at_s for request in trace.requests] == [0.0, pytest.approx(0.03)]
    assert (trace.requests[1].blocks, trace.block_tokens) == ((1,), 32)

    cut = read_trace(path, 10, max_tokens=450, fitting=0.5)

    assert [request.num_tokens for request in cut.requests] == [450, 100]


def test_the_fleet_has_the_workers_that_were_asked_for() -> None:
    trace = made_up("chat", 5)

    run = Run(trace, policies()["ours"], TIMES, spec=FleetSpec(num_prefill=1, num_decode=3))

    assert sorted(run.fleet.workers) == ["d0", "d1", "d2", "p0"]


def test_real_processes_get_prompts_that_share_what_the_trace_shares(tmp_path: Path) -> None:
    lengths = ((1000, [1, 2, 3]), (1100, [1, 2, 4]), (9000, [1, 5]))
    rows = [
        {"timestamp_ms": at, "input_length": length, "output_length": 80, "hash_ids": blocks}
        for at, (length, blocks) in enumerate(lengths)
    ]
    path = tmp_path / "agentic.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))

    todo = points([path], 3, tokens_per_s=10_000.0)
    first, second, third = (request.token_ids for request in todo[-1].requests)

    assert [(point.name, point.load) for point in todo[-2:]] == [("agentic", 1.0), ("agentic", 2.0)]
    assert (len(first), len(second), len(third)) == (200, 220, 1800)
    assert second[:24] == first[:24]
    assert second[24:] != first[24:]
    assert third[:12] == first[:12]
    assert todo[-2].requests[0].token_ids[:12] != first[:12]


def test_tables_of_real_processes_say_where_ours_loses() -> None:
    point = points([], 30, tokens_per_s=10_000.0)[0]
    numbers = {name: 90 for name in ARMS} | {"least load": 95, "always local": 20}
    outcomes = {
        name: Outcome(100, good, (1.0, 2.0), (3.0, 4.0), 0.5, 0.0, 1.0, 0.1)
        for name, good in numbers.items()
    }

    verdict = verdict_table([point], [outcomes])

    assert verdict.rows[0][2:] == (0, "least load", -5, 0)
    assert len(verdict.notes) == 1
    assert "least load had 5 more of 100" in verdict.notes[0]
