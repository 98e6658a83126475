"""What is asked of the engine, most valuable first, until the time is over; and the answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from baton.engine.model.config import ModelConfig
from bench.engine.checkpoint import num_step_weights
from bench.gpu.subject import WHOLE, Subject
from bench.kernels.rates import Rates
from bench.report import Cell, Table

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Cells of a run."""

    batches: tuple[int, ...] = (1, 8, 32, 128)
    contexts: tuple[int, ...] = (2048, 8192)
    prefills: tuple[int, ...] = (2048, 8192)
    ablated: tuple[tuple[int, int], ...] = ((1, 2048), (33, 2048))
    """Batch and context of steps that are measured without a feature; one between two buckets."""
    num_steps: int = 32
    rounds: int = 3


CPU = Sizes((1, 8), (128,), (512,), ((1, 128), (9, 128)), 12, 2)
TINY = Sizes((1, 3), (40,), (40,), ((1, 40), (3, 40)), 2, 1)


class Clock:
    """How much time is left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether nothing more should be begun."""
        return time.monotonic() > self._end


@dataclass(slots=True)
class Found:
    """Milliseconds by cell. What was not reached is missing."""

    decode_ms: dict[tuple[int, int], float] = field(default_factory=dict)
    """By batch, which may be less than what was asked for, and context."""
    prefill_ms: dict[int, float] = field(default_factory=dict)
    without_ms: dict[tuple[str, int, int], float] = field(default_factory=dict)
    """By what is left out, batch and context; the whole under an empty name."""
    num_left_out: int = 0


def measure(subject: Subject, sizes: Sizes, clock: Clock, say: Report) -> Found:
    """Decode and prefill of the whole engine."""
    found = Found()
    engine = subject.engine(WHOLE, max(sizes.batches))
    for index, context in enumerate(sizes.contexts):
        for wanted in sizes.batches:
            batch = min(wanted, subject.most(context))
            if clock.is_over or batch < 1:
                found.num_left_out += 1
                continue
            say(f"decode, batch {batch}, context {context:,}")
            steps = subject.decode(engine, batch, context, sizes.num_steps)
            found.decode_ms[batch, context] = median(steps)
        for num_tokens in sizes.prefills if index == 0 else ():
            if clock.is_over:
                found.num_left_out += 1
                continue
            say(f"prefill, {num_tokens:,} tokens")
            subject.prefill(engine, num_tokens)  # kernels compile for the shape
            times = [subject.prefill(engine, num_tokens) for _ in range(sizes.rounds)]
            found.prefill_ms[num_tokens] = median(times)
    return found


def ablate(subject: Subject, sizes: Sizes, clock: Clock, say: Report) -> Found:
    """Decode steps of the whole engine, and of it without one feature after the other.

    The whole is measured before each of them, so that both see the same machine.
    """
    found = Found()
    for batch, context in sizes.ablated:
        whole: list[float] = []
        engine = subject.engine(WHOLE, batch)
        for name, features in subject.ablations.items():
            if clock.is_over or batch > subject.most(context):
                found.num_left_out += 1
                continue
            say(f"{name}, batch {batch}, context {context:,}")
            whole += subject.decode(engine, batch, context, sizes.num_steps // 2 or 1)
            steps = subject.decode(subject.engine(features, batch), batch, context, sizes.num_steps)
            found.without_ms[name, batch, context] = median(steps)
        if whole:
            found.without_ms["", batch, context] = median(whole)
    return found


@dataclass(frozen=True, slots=True)
class Floors:
    """What the device can do, and what a model asks of it."""

    config: ModelConfig
    rates: Rates
    weight_bytes: int
    """Of one number, in weights and blocks alike."""

    def decode_ms(self, batch: int, context: int) -> float:
        """Weights and blocks read once, or products computed, whichever takes longer."""
        config, weights = self.config, num_step_weights(self.config)
        # An embedding that is not tied is not read, but for a row each.
        per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim
        num_bytes = (weights + batch * context * per_token) * self.weight_bytes
        return max(num_bytes / self.rates.read_bytes, 2 * weights * batch / self.rates.flops) * 1e3

    def prefill_ms(self, num_tokens: int) -> float:
        """The products of all layers and of attention's two, half of them masked; head: one row."""
        config = self.config
        head = config.vocab_size * config.hidden_size
        products = 2 * (num_step_weights(config) - head) * num_tokens + 2 * head
        width = config.num_layers * config.num_heads * config.head_dim
        return (products + 2 * num_tokens**2 * width) / self.rates.flops * 1e3


def tables(found: Found, floors: Floors) -> list[Table]:
    """Those that have rows."""
    made = [_rates(floors.rates), _decode(found, floors), _prefill(found, floors), _without(found)]
    return [table for table in made if table.rows]


def _rates(rates: Rates) -> Table:
    row: tuple[Cell, ...] = (rates.read_bytes / 1e9, rates.copy_bytes / 1e9, rates.flops / 1e12)
    return Table(
        "What the device does, in this run",
        ("read GB/s", "copy GB/s", "products TFLOP/s"),
        (row,),
        ("read-only stream; reads and writes of a copy; square products in the run's type",),
    )


def _decode(found: Found, floors: Floors) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (batch, context), took in found.decode_ms.items():
        floor = floors.decode_ms(batch, context)
        rows.append((batch, context, took, floor, 100 * floor / took, 1e3 * batch / took))
    notes = (
        "median of the steps' times on the host, temperature 0.8 and top-p 0.95; batches are cut to"
        " what the memory for blocks holds",
        "floor: weights and blocks read once at the read rate, or products at theirs",
        *_left_out(found),
    )
    columns = ("batch", "context", "step ms", "floor ms", "% of floor", "tokens/s")
    return Table("Decode", columns, tuple(rows), notes)


def _prefill(found: Found, floors: Floors) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for num_tokens, took in found.prefill_ms.items():
        floor = floors.prefill_ms(num_tokens)
        rows.append((num_tokens, took, floor, 100 * floor / took, 1e3 * num_tokens / took))
    columns = ("tokens", "ms", "floor ms", "% of floor", "tokens/s")
    return Table("Prefill, one prompt to its first token", columns, tuple(rows))


def _without(found: Found) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (name, batch, context), took in found.without_ms.items():
        if name:
            whole = found.without_ms["", batch, context]
            rows.append((name, batch, context, took, whole, took - whole, took / whole))
    columns = ("step", "batch", "context", "ms", "whole ms", "worth ms", "times")
    notes = ("whole: the engine with all of them, measured in turn", *_left_out(found))
    return Table("What each feature is worth", columns, tuple(rows), notes)


def _left_out(found: Found) -> tuple[str, ...]:
    if not found.num_left_out:
        return ()
    return (f"{found.num_left_out} cells were left out: no time, or no memory for blocks",)
