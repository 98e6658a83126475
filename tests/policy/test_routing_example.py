"""The worked example of docs/routing.md, computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.policy.learned import Learned, Road
from baton.policy.routing import choose
from baton.policy.stepmodel import StepModel
from baton.policy.table import WorkerTable
from baton.policy.workers import RouteRequest, RoutingConfig, WorkerView
from baton.request import Role

PAGE = Path(__file__).parents[2] / "docs" / "routing.md"
STEPS = StepModel(
    prompt_step_us=5000,
    prompt_token_us=90,
    prompt_sequence_us=12,
    decode_step_us=6000,
    decode_sequence_us=12,
)
LEARNED = Learned(steps=STEPS, common=Road(1500.0, 20_000.0))


def worker(worker_id: str, role: Role, num_streams: int = 0) -> WorkerView:
    return WorkerView(
        worker_id,
        role,
        block_bytes=16 * 131_072,
        num_blocks=20_000,
        num_running=num_streams,
        num_booked_sequences=num_streams,
        learned=LEARNED,
    )


def told() -> dict[tuple[str, str], list[float]]:
    """The page's table: (decode, prompt by) to the numbers in its row."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if len(cells) == 10 and cells[0].startswith("decode-"):
            rows[cells[0], cells[1]] = [float(cell or 0) for cell in cells[2:]]
    return rows


def test_the_example_on_the_page_is_what_the_policy_computes() -> None:
    table = WorkerTable(
        [
            worker("decode-0", Role.DECODE, 20),
            worker("decode-1", Role.DECODE, 4),
            worker("prefill-0", Role.PREFILL),
        ]
    )
    request = RouteRequest(2048, cached_blocks={"decode-0": 32})

    options = choose(request, table, RoutingConfig(), 0.0).weigh()

    rows = told()
    assert len(rows) == len(options) == 4
    for option in options:
        terms = dict(option.terms)
        names = ("queue", "compute", "handoff", "join", "stall", "share")
        expected = rows[option.decode_worker_id, option.prefill_worker_id or "itself"]
        got = [*(terms[name] for name in names), option.ttft_ms, option.cost_ms]
        assert got == pytest.approx(expected, abs=0.06)
