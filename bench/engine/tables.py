"""What was measured, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from baton.engine.model.config import ModelConfig
from bench.engine.errors import WeightError
from bench.engine.floors import Floors
from bench.engine.run import BATCHES, DECODE_PROMPT_LEN, PROMPTS, Measured
from bench.engine.subjects import BASE, TRANSFORMERS
from bench.report import Cell, Table
from bench.stats import ratio

_BYTES = {"Baton, bfloat16 weights": 2.0, "Baton, int8 weights": 1.0}
_FLOOR = "floor (float32)"


def tables(
    measured: Measured, titles: Sequence[str], floors: Floors, config: ModelConfig
) -> list[Table]:
    """Floors first."""
    made = [
        _floors(floors),
        _times(measured, titles, floors, config),
        _ratios(measured, titles, floors, config),
        _ablation(measured, titles),
    ]
    return [table for table in made if table.rows]


def _floors(floors: Floors) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = (
        ("reading memory, GB/s", floors.read_gb_s),
        ("float32 products, native, GFLOP/s", floors.gemm_gflop_s),
        ("float32 products, torch, GFLOP/s", floors.torch_gemm_gflop_s),
    )
    return Table("What this machine can do, measured in the same run", ("what", "best of 10"), rows)


def _columns() -> tuple[str, ...]:
    decode = (f"decode step, batch {batch}, ms" for batch in BATCHES)
    return (*decode, *(f"prefill {n}, ms" for n in PROMPTS))


def _cells(measured: Measured, title: str) -> list[float | None]:
    decode = [measured.decode(title, batch) for batch in BATCHES]
    return [*decode, *(measured.prefill(title, n) for n in PROMPTS)]


def _floor_cells(floors: Floors, config: ModelConfig, num_bytes: float = 4.0) -> list[float]:
    decode = [floors.decode_ms(config, batch, num_bytes) for batch in BATCHES]
    return [*decode, *(floors.prefill_ms(config, n) for n in PROMPTS)]


def _times(measured: Measured, titles: Sequence[str], floors: Floors, config: ModelConfig) -> Table:
    rows: list[tuple[Cell, ...]] = [(_FLOOR, *_floor_cells(floors, config), None)]
    for title in titles:
        same = measured.agreement(title, TRANSFORMERS.title)
        rows.append((title, *_cells(measured, title), None if same is None else f"{same:.0%}"))
    notes = (
        f"prompts of {DECODE_PROMPT_LEN} tokens for decode; medians of the rounds' median steps",
        "floor of decode: weights read once, or their products, whichever takes longer; "
        "of prefill: products and causal attention at the native rate",
        "answers: share of greedy answers that equal transformers' token by token",
    )
    return Table("Milliseconds", ("engine", *_columns(), "answers"), tuple(rows), notes)


def _ratios(
    measured: Measured, titles: Sequence[str], floors: Floors, config: ModelConfig
) -> Table:
    base = _cells(measured, BASE)
    rows: list[tuple[Cell, ...]] = []
    for title in (title for title in titles if not title.startswith(BASE)):
        theirs = _cells(measured, title)
        rows.append((f"{title} / Baton", *(ratio(t, b) for t, b in zip(theirs, base, strict=True))))
    for title in (title for title in titles if title == BASE or title in _BYTES):
        floor = _floor_cells(floors, config, _BYTES.get(title, 4.0))
        ours = _cells(measured, title)
        rows.append((f"{title} / floor", *(ratio(b, f) for b, f in zip(ours, floor, strict=True))))
    notes = ("peers: above 1, Baton is faster; floors: 1 is the most that the machine allows",)
    return Table("Ratios", ("of", *_columns()), tuple(rows), notes)


def _ablation(measured: Measured, titles: Sequence[str]) -> Table:
    base = _cells(measured, BASE)
    rows: list[tuple[Cell, ...]] = []
    for title in (t for t in titles if t.startswith(BASE) and t != BASE):
        ours = _cells(measured, title)
        rows.append((title, *(ratio(o, b) for o, b in zip(ours, base, strict=True))))
    notes = ("below 1: faster than Baton as it comes",)
    return Table(
        "What each thing is worth: time over Baton's", ("with", *_columns()), tuple(rows), notes
    )


def error_table(errors: Sequence[WeightError]) -> Table:
    """What narrower weights cost."""
    rows = tuple(
        (
            error.form,
            f"{error.mean_divergence:.2e}",
            f"{error.worst_divergence:.2e}",
            100 * error.same_choice,
            f"{error.loss:.4f}",
        )
        for error in errors
    )
    return Table(
        "What narrower weights cost: the demo model's next tokens over 512 tokens of documentation",
        ("weights", "mean KL, nats", "worst KL, nats", "same choice %", "loss, nats"),
        rows,
        ("against float32 weights; the demo model's own are stored in bfloat16 or float32",),
    )
