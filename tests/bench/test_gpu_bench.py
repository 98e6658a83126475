"""The GPU run, rehearsed on a CPU at tiny sizes: every part of it but the GPU. Nothing is timed."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench.gpu.__main__ import Part, parts_of, run_parts
from bench.gpu.cells import TINY, Clock, Floors, tables
from bench.gpu.engine import Run, What
from bench.gpu.subject import ablations
from bench.kernels.rates import Rates

QUIET = Console(quiet=True)


@pytest.mark.parametrize("what", list(What))
def test_all_cells_are_measured_and_shown(what: What) -> None:
    if what is What.TRANSFORMERS and find_spec("transformers") is None:
        pytest.skip("needs transformers")
    with torch.inference_mode():
        found, floors = Run(what, "tiny", "cpu", True).measure(Clock(60.0), QUIET)

    shown = {table.title: table for table in tables(found, floors)}
    assert found.num_left_out == 0
    if what is What.ABLATIONS:
        assert set(found.without_ms) == {
            (name, *cell) for name in ("", *ablations("cpu")) for cell in TINY.ablated
        }
        assert len(shown["What each feature is worth"].rows) == len(ablations("cpu")) * 2
    else:
        assert set(found.decode_ms) == {(1, 40), (3, 40)}
        assert set(found.prefill_ms) == {40}
        assert len(shown["Decode"].rows) == 2


def test_nothing_is_begun_when_time_is_over() -> None:
    found, floors = Run(What.STEPS, "tiny", "cpu", True).measure(Clock(0.0), QUIET)

    assert found.num_left_out == 3
    assert [table.title for table in tables(found, floors)] == ["What the device does, in this run"]


def test_a_floor_is_all_weights_and_blocks_read_once(tmp_path: Path) -> None:
    _, floors = Run(What.STEPS, "tiny", "cpu", True).measure(Clock(0.0), QUIET)
    rates = Rates(read_bytes=1e9, copy_bytes=1e9, flops=1e15)
    floors = Floors(floors.config, rates, 2)

    # Two layers of 64 x (128 q, k, v; 64 out; 384 MLP) and the head; 128 numbers of KV a token.
    weights = 2 * 64 * (128 + 64 + 384) + 512 * 64
    assert floors.decode_ms(3, 100) == pytest.approx((weights + 3 * 100 * 128) * 2 / 1e6)


def python(code: str, *, paces_itself: bool = False) -> Part:
    return Part(code, (sys.executable, "-c", code), 30.0, paces_itself)


def test_a_run_goes_on_behind_a_part_that_fails_or_hangs() -> None:
    parts = [
        python("import sys; print('so'); sys.exit(3)"),
        python("import sys; print(sys.argv[1])", paces_itself=True),
        python("import threading; print('hangs', flush=True); threading.Event().wait()"),
        python("print('never')"),
    ]

    first, second = run_parts(parts[:2], 600.0, QUIET)
    hanging, never = run_parts(parts[2:3], 0.5, QUIET), run_parts(parts[3:], 0.0, QUIET)

    assert (first.code, first.last_words) == (3, "so")
    assert (second.code, second.last_words) == (0, "--seconds")
    assert [each.code for each in (*hanging, *never)] == [None] * 2


@pytest.mark.parametrize("is_quick", [False, True])
def test_parts_fit_into_a_quarter_of_an_hour(tmp_path: Path, is_quick: bool) -> None:
    parts = parts_of("cuda", tmp_path, is_quick=is_quick)

    assert sum(part.seconds for part in parts) <= 14 * 60
    assert [part.name.partition(",")[0] for part in parts] == [
        *("checks", "steps", "kernels", "ablations", "steps", "transformers")
    ]
