"""What the overload benchmark counts; the load itself runs in tests/cluster/test_admission.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.admission.__main__ import Point, kept
from bench.admission.load import Due, Mix, Outcome, Targets, poisson
from bench.admission.simulated import MIXES, goodput, outcomes_of
from bench.report import PartResult, Report, Table, to_json

TARGETS = Targets(ttft_s=1.0, itl_s=0.1)


def outcome(*arrivals: float, error: str = "", is_done: bool = True) -> Outcome:
    """One that was due at 10 s and wants three tokens."""
    return Outcome(Due(10.0, (1,), 3), 10.0, list(arrivals), error, None, is_done)


def test_arrivals_come_at_the_rate_and_in_the_shares_asked_for():
    dues = poisson(100.0, 50.0, 1, (("many", 0, 0.9), ("few", 5, 0.1)))

    assert 4500 < len(dues) < 5500
    assert [due.at_s for due in dues] == sorted(due.at_s for due in dues)
    assert 0.85 < sum(due.tenant == "many" for due in dues) / len(dues) < 0.95
    assert {due.priority for due in dues if due.tenant == "few"} == {5}


def test_a_good_answer_is_whole_and_in_time_from_when_it_was_due():
    assert outcome(10.9, 11.0, 11.1).is_good(TARGETS)
    assert not outcome(11.1, 11.2, 11.3).is_good(TARGETS)
    assert not outcome(10.1, 10.3, 10.5).is_good(TARGETS)
    assert not outcome(10.1, 10.2, 10.3, is_done=False).is_good(TARGETS)
    assert not outcome(error="OVERLOADED").is_good(TARGETS)


def test_a_row_tells_answers_refusals_and_other_ends_apart():
    point = Point(
        1.5,
        9.0,
        2.0,
        [outcome(10.5, 10.6, 10.7), outcome(error="OVERLOADED"), outcome(error="NO_WORKER")],
    )
    row = point.row(("admission",), 1.0, 0.25)

    assert point.goodput == 0.5
    assert row[:4] == ("admission", 1.5, 9.0, 3)
    assert row[5:9] == (50.0, 1, 1, 1)
    assert row[-2:] == (0.5, 200.0)  # prompt tokens of the one good answer


def test_parts_that_are_not_measured_again_are_kept(tmp_path: Path):
    def part(name: str, title: str) -> PartResult:
        return PartResult(name, 1.0, 0.0, 0.0, (Table(title, ("a",), ((1,), (None,)), ("n",)),))

    path = tmp_path / "admission.json"
    assert kept(path, [part("pair", "new")]) == [part("pair", "new")]
    path.write_text(to_json(Report({}, False, (part("one", "old"), part("pair", "old")))))

    assert kept(path, [part("pair", "new")]) == [part("one", "old"), part("pair", "new")]


@pytest.mark.parametrize(
    ("name", "loads"),
    [
        ("plain", (1.0, 1.25, 2.0)),
        ("long answers", (1.0, 1.5)),
        # Around 1.0 bursts of prompts that take a fifth of the target each cost more.
        ("some long", (1.25, 1.5, 3.0)),
    ],
)
def test_simulated_overload_lowers_goodput_by_less_than_a_tenth_of_its_peak(name, loads):
    found = goodput(MIXES[name], loads, noise=0.0, seeds=(1, 2), seconds=10.0)

    assert min(one.good for one in found) >= 0.9 * max(one.good for one in found)
    tokens = [one.good_tokens for one in found]
    assert min(tokens) >= 0.9 * max(tokens)
    assert max(one.late for one in found) < 0.01
    assert found[-1].asked > 1.4 * found[-1].good


def test_simulated_overload_on_an_unsteady_machine_makes_few_answers_late():
    [at, over] = goodput(MIXES["plain"], (1.0, 2.0), noise=0.2, seeds=(1,), seconds=10.0)

    assert over.late < 0.05
    assert over.good >= 0.9 * at.good


def test_in_simulated_overload_a_tenant_within_its_share_is_served_whatever_the_other_sends():
    mine = poisson(6.0, 10.0, 1, (("few", 0, 1.0),), Mix((32, 128)))
    others = poisson(25.0, 10.0, 2, (("many", 0, 1.0),), Mix((1000, 1600)))
    outcomes = outcomes_of(sorted([*mine, *others], key=lambda due: due.at_s), noise=0.1)

    refused = [outcome.due.tenant for outcome in outcomes if not outcome.is_good(TARGETS)]
    assert refused.count("few") == 0
    assert refused.count("many") > 100
