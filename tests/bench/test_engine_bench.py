"""The engine's benchmark: its checkpoint, its floors' arithmetic, its tables. Nothing is timed."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.engine.model.weights import load_model
from bench.engine.checkpoint import SMALL, TINY, num_step_weights, write_checkpoint
from bench.engine.floors import Floors
from bench.engine.run import Measured
from bench.engine.tables import tables
from kernels import load, native

FLOORS = Floors(20.0, 100.0, 80.0)


def test_the_checkpoint_loads(tmp_path: Path) -> None:
    config = write_checkpoint(tmp_path / "model", TINY)

    model = load_model(tmp_path / "model", "cpu", "float32", load("cpu"))

    assert model.config == config
    # Two layers of 64 x (128 q, k, v; 64 out; 384 MLP) and the head.
    assert num_step_weights(config) == 2 * 64 * (128 + 64 + 384) + 512 * 64


def test_a_floor_is_reading_for_few_rows_and_products_for_many(tmp_path: Path) -> None:
    config = write_checkpoint(tmp_path / "model", TINY)
    weights = num_step_weights(config)

    assert FLOORS.decode_ms(config, 1) == pytest.approx(weights * 4 / 20e9 * 1e3)
    assert FLOORS.decode_ms(config, 1, 1.0) == pytest.approx(weights / 20e9 * 1e3)
    assert FLOORS.decode_ms(config, 64) == pytest.approx(2 * weights * 64 / 100e9 * 1e3)


def test_tables_compare_with_peers_floors_and_what_is_left_out(tmp_path: Path) -> None:
    config, measured = write_checkpoint(tmp_path / "model", TINY), Measured()
    for title, factor in (("Baton", 1.0), ("Baton, int8 weights", 0.5), ("transformers", 3.0)):
        for batch in (1, 8, 32):
            measured.decode_ms[title, batch] += [9 * factor, factor, 2 * factor]
            measured.tokens[title, batch, 0] = [[1, 2], [3, 4 if factor > 1 else batch]]
    titles = ["Baton", "Baton, int8 weights", "transformers"]

    _, times, ratios, worth = tables(measured, titles, FLOORS, config)

    assert times.rows[1] == ("Baton", 2.0, 2.0, 2.0, None, None, "50%")
    assert ratios.rows[0] == ("transformers / Baton", 3.0, 3.0, 3.0, None, None)
    assert worth.rows == (("Baton, int8 weights", 0.5, 0.5, 0.5, None, None),)


def test_the_small_model_is_the_one_that_peers_were_measured_on() -> None:
    assert (SMALL.hidden, SMALL.inner, SMALL.num_layers) == (768, 2048, 12)
    assert native.FORMS == ("float32", "bfloat16", "int8")
