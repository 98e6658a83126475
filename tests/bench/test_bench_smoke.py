"""The benchmark's arithmetic, its reading of output, and its tables. Nothing is timed here."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bench.failure import BenchFailed, task_group
from bench.handoff import scatter
from bench.http_door import read_events
from bench.report import PartResult, Report, Table, format_cell, to_json, to_markdown, to_terminal
from bench.serving import Part, file_stem
from bench.startup import Timeline
from bench.stats import Answer, gaps_between, milliseconds, percentile, ratio, tokens_between

TABLE = Table(
    "Speeds",
    ("how", "GB/s", "count", "of a copy"),
    (("shm", 12.3456, 1234, 0.98765), ("grpc", 0.5, 7, None)),
    ("a note",),
)


def answer_of(sent: float, *arrivals: tuple[float, int]) -> Answer:
    """An answer whose chunks came at these times with so many tokens."""
    answer = Answer(sent)
    for at, num_tokens in arrivals:
        answer.take(at, num_tokens)
    return answer


def report_of(load: float, *, is_quick: bool = False) -> Report:
    """A report of one part that began at a load average."""
    part = PartResult("handoff", 12.0, load, load + 1, (TABLE,))
    return Report({"cpu": "a CPU"}, is_quick, (part,))


def test_first_token_is_the_first_chunk_that_holds_one():
    answer = answer_of(10.0, (10.1, 0), (10.3, 1), (10.4, 1))

    assert answer.ttft_s == pytest.approx(0.3)
    assert answer.num_tokens == 2


def test_a_chunk_of_several_tokens_is_one_gap_and_spreads_in_tpot():
    answer = answer_of(0.0, (1.0, 1), (1.1, 1), (1.4, 3))

    assert answer.gaps_s == pytest.approx([0.1, 0.3])
    assert answer.tpot_s == pytest.approx(0.4 / 4)


def test_chunks_of_one_burst_count_as_one():
    answer = answer_of(0.0, (1.0, 1), (1.0001, 1), (1.0004, 1), (1.02, 1), (1.0201, 1))

    assert answer.gaps_s == pytest.approx([0.02])
    assert answer.num_tokens == 5


def test_an_answer_of_one_token_has_no_gap_and_no_tpot():
    answer = answer_of(0.0, (1.0, 1))

    assert answer.gaps_s == []
    assert answer.tpot_s is None


def test_only_what_ended_in_a_span_is_counted_there():
    answers = [answer_of(0.0, (1.0, 1), (2.0, 1), (5.0, 1)), answer_of(0.0, (4.0, 2), (4.5, 3))]

    assert gaps_between(answers, 2.0, 5.0) == pytest.approx([1.0, 0.5])
    assert tokens_between(answers, 2.0, 5.0) == 6


def test_percentiles_lie_between_neighbours():
    values = [4.0, 1.0, 3.0, 2.0]

    assert percentile(values, 50) == pytest.approx(2.5)
    assert percentile(values, 100) == 4.0
    assert milliseconds([0.001, 0.003], 50) == pytest.approx(2.0)
    assert percentile([], 99) is None


def test_a_ratio_needs_both_sides():
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None
    assert ratio(3.0, 0.0) is None


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, "-"),
        ("shm", "shm"),
        (12345, "12,345"),
        (1234.5, "1,234"),
        (12.345, "12.3"),
        (1.2345, "1.23"),
        (0.12345, "0.123"),
    ],
)
def test_cells_show_three_figures(cell, shown):
    assert format_cell(cell) == shown


def test_markdown_holds_machine_tables_notes_and_load():
    page = to_markdown(report_of(0.1))

    assert "| cpu | a CPU |" in page
    assert "| how | GB/s | count | of a copy |\n| --- | ---: | ---: | ---: |" in page
    assert "| shm | 12.3 | 1,234 | 0.988 |\n| grpc | 0.500 | 7 | - |" in page
    assert "- a note" in page
    assert "load average 0.10 before, 1.10 after" in page
    assert "Not for quoting" not in page


def test_quick_and_busy_runs_say_that_they_are_not_for_quoting():
    report = report_of(1000.0, is_quick=True)

    assert len(report.warnings) == 2
    assert to_markdown(report).count("Not for quoting") == 2


def test_json_holds_unrounded_values():
    read = json.loads(to_json(report_of(0.1)))

    assert read["parts"][0]["tables"][0]["rows"][0] == ["shm", 12.3456, 1234, 0.98765]
    assert read["warnings"] == []


def test_terminal_shows_every_cell_and_note():
    out = io.StringIO()

    Console(file=out, width=120).print(to_terminal(report_of(0.1).parts[0]))

    assert all(word in out.getvalue() for word in ("Speeds", "12.3", "grpc", "a note"))


def test_partial_and_quick_runs_have_files_of_their_own():
    assert file_stem(list(Part), is_quick=False) == "serving"
    assert file_stem([Part.HOPS], is_quick=False) == "serving-hops"
    assert file_stem(list(Part), is_quick=True) == "serving-quick"


DEMO_LINES = (
    (0.5, "Starting 5 processes on this machine\n  redis     ready 0.1 s\n"),
    (0.9, "  kvstore-0 ready 0.7 s\n"),
    (3.0, "prefill-0 | 12:59:17 [info     ] model loaded  [baton.worker.boot] blocks=3276\n"),
    (3.2, "decode-0  | 12:59:17 [info     ] model loaded  [baton.worker.boot] blocks=3276\n"),
    (3.3, "  prefill-0 ready 3.5 s\n  decode-0  ready 3.5 s\n"),
    (4.0, "  gateway-0 ready 0.8 s\n\n> What should I know?\n\n"),
    (4.1, "prefill-0 | 12:59:18 [info     ] decode worker connected\ndecode-0  | 12:5"),
    (4.2, "9:18 [info     ] prefill worker connected\n"),
    (4.5, "A gen"),
    (4.6, "erator is"),
)


def test_start_up_stages_are_read_from_what_the_demo_prints():
    timeline = Timeline()

    for at, text in DEMO_LINES:
        timeline.take(text, at)

    assert timeline.at == {
        "command runs": 0.5,
        "redis": 0.5,
        "kvstore": 0.9,
        "model loaded": 3.2,
        "workers": 3.3,
        "gateway": 4.0,
        "first token": 4.5,
    }


class Response(io.BytesIO):
    """An HTTP response, as far as a reader of events looks at it."""

    status = 200


def test_http_events_are_arrivals_and_usage_counts_tokens():
    answer = Answer(0.0)
    body = (
        b'data: {"choices":[{"text":"a"}]}\n\ndata: {"choices":[{"text":"b"}]}\n\n'
        b'data: {"choices":[],"usage":{"completion_tokens":5}}\n\ndata: [DONE]\n\n'
    )

    assert read_events(Response(body), answer) == 5
    assert len(answer.arrivals) == 2


def test_scattering_keeps_every_block():
    scattered = scatter(range(100), seed=1)

    assert sorted(scattered) == list(range(100))
    assert scattered != tuple(range(100))


async def test_the_first_failure_of_several_tasks_is_raised_as_itself():
    async def fail() -> None:
        raise BenchFailed("a request failed")

    with pytest.raises(BenchFailed, match="a request failed"):
        async with task_group() as group:
            group.create_task(fail())
