"""Step times from a table: its own points, lines between them, and sentences about bad files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.engine.step_times import StepTimes, read_step_times
from baton.errors import ModelError

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "step_times.csv"
HEADER = "prompt_tokens,decode_sequences,context_tokens,step_us\n"

axis = st.lists(st.integers(0, 10_000), min_size=1, max_size=4, unique=True)
number = st.integers(0, 20_000)


@given(axis, axis, axis, number, number, number)
def test_a_plane_is_met_exactly_within_its_grid(xs, ys, zs, x, y, z) -> None:
    def plane(x: float, y: float, z: float) -> float:
        return 7 + 2 * x + 3 * y + 0.5 * z

    times = StepTimes({(x, y, z): plane(x, y, z) for x in xs for y in ys for z in zs})
    # A single point knows no slope, and below the first one nothing gets shorter.
    held = [
        value if len(points) > 1 and value > min(points) else min(points)
        for value, points in ((x, xs), (y, ys), (z, zs))
    ]

    assert times.step_us(x, y, z) == pytest.approx(plane(*held))


def test_the_slope_may_differ_from_piece_to_piece() -> None:
    times = StepTimes({(0, 0, 0): 10.0, (10, 0, 0): 20.0, (30, 0, 0): 100.0})

    found = [times.step_us(x, 0, 0) for x in (0, 5, 10, 20, 30, 40)]

    assert found == [10.0, 15.0, 20.0, 60.0, 100.0, 140.0]


def test_a_falling_line_never_gets_below_nothing() -> None:
    assert StepTimes({(0, 0, 0): 10.0, (1, 0, 0): 0.0}).step_us(5, 0, 0) == 0.0


def test_the_example_takes_longer_with_more_work() -> None:
    times = read_step_times(EXAMPLE)

    sizes = [(0, 0, 0), (0, 1, 100), (0, 64, 64_000), (512, 64, 64_000), (4096, 300, 2_000_000)]
    found = [times.step_us(*size) for size in sizes]
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n", r"the columns are \['a', 'b'\]"),
        ("", "the columns are None"),
        (HEADER, "has no rows"),
        (HEADER + "0,0,0,5\n0,0,0,6\n", "comes twice"),
        (HEADER + "0,0,0,x\n", "not made of numbers"),
        (HEADER + "0,0,0\n", "not made of numbers"),
        (HEADER + "0,0,0,-1\n", "negative or not finite"),
        (HEADER + "0,0,0,nan\n", "negative or not finite"),
        (
            HEADER + "0,0,0,1\n8,1,0,1\n",
            "no row for prompt_tokens 0, decode_sequences 1, context_tokens 0",
        ),
    ],
)
def test_a_bad_table_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "times.csv"
    path.write_text(text)

    with pytest.raises(ModelError, match=sentence):
        read_step_times(path)
