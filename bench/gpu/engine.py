"""`python -m bench.gpu.engine`: engine steps at a model's shape, random weights, one device."""

from __future__ import annotations

import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

import kernels
from baton.engine.model.config import read_config
from bench.entry import RESULTS, conclude, introduce, open_console
from bench.gpu.cells import CPU, TINY, Clock, Floors, Found, Sizes, ablate, measure, tables
from bench.gpu.peer import measure_transformers
from bench.gpu.shapes import random_weights, write_config
from bench.gpu.subject import Place, Subject
from bench.kernels.rates import Rates, measure_rates
from bench.kernels.timing import Budget, Stopwatch
from bench.machine import describe_machine
from bench.report import Report, to_terminal

_SPARE_BYTES = 6 << 30
"""Of a GPU's memory, for activations, graphs and libraries."""


class What(StrEnum):
    """What is measured."""

    STEPS = "steps"
    ABLATIONS = "ablations"
    TRANSFORMERS = "transformers"


def main(
    *,
    what: Annotated[What, typer.Option(help="What is measured.")] = What.STEPS,
    shape: Annotated[str, typer.Option(help="qwen3-8b, llama-3.1-8b, small or tiny.")] = "qwen3-8b",
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    seconds: Annotated[float, typer.Option(help="Nothing is begun after so many.")] = 120.0,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny cells.")] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for results.", show_default="bench/results")
    ] = RESULTS,
) -> None:
    """Measure one thing on one device, print tables, write them as markdown and JSON."""
    console, clock = open_console(), Clock(seconds)
    run = Run(what, shape, device, quick)
    machine = run.describe()
    opening = introduce(machine, console)
    with torch.inference_mode():
        found, floors = run.measure(clock, console)
    part = opening.result(f"{shape}, {what}", tables(found, floors))
    console.print(to_terminal(part))
    report = Report(machine, quick, (part,), f"Engine on one device: {shape}, {what}")
    is_part = what is not What.STEPS
    words = ((f"engine-{device}", True), (shape, True), (what.value, is_part), ("quick", quick))
    conclude(report, out, words, console)


class Run:
    """One shape on one device."""

    def __init__(self, what: What, shape: str, device: str, is_quick: bool) -> None:
        self._what = what
        self._shape = shape
        self._device = device
        self._dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._sizes = TINY if is_quick else Sizes() if device == "cuda" else CPU
        self._is_quick = is_quick

    def measure(self, clock: Clock, console: Console) -> tuple[Found, Floors]:
        """What was found, and what it is held against."""

        def say(text: str) -> None:
            console.print(text, style="dim")

        rates = self._rates()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_config(folder, self._shape)
            config = read_config(folder)
            floors = Floors(config, rates, self._dtype.itemsize)
            if self._what is What.TRANSFORMERS:
                where = (self._device, self._dtype)
                return measure_transformers(folder, where, self._sizes, clock, say), floors
        ops = kernels.load(self._device)
        weights = random_weights(config, self._device, self._dtype)
        subject = Subject(config, weights, ops, self._place())
        work = ablate if self._what is What.ABLATIONS else measure
        return work(subject, self._sizes, clock, say), floors

    def describe(self) -> dict[str, str]:
        """For the report."""
        command = " ".join(["python -m bench.gpu.engine", *sys.argv[1:]])
        facts = describe_machine() | {"command": command}
        facts["dtype"] = str(self._dtype).removeprefix("torch.")
        if self._device == "cuda":
            facts["device"] = torch.cuda.get_device_name()
        return facts

    def _rates(self) -> Rates:
        is_short = self._is_quick
        budget = Budget(0.01, 0.05, 1, 2) if is_short else Budget(0.2, 1.5, 5, 40)
        watch = Stopwatch(self._device, budget)
        if is_short:
            return Rates(1e10, 1e10, 1e11)  # made up: nobody may quote a quick run
        return measure_rates(watch, self._device, self._dtype)

    def _place(self) -> Place:
        sizes = self._sizes
        longest = max(*sizes.contexts, *sizes.prefills)
        return Place(
            self._device,
            self._dtype,
            max_batch=max(*sizes.batches, *(batch for batch, _ in sizes.ablated)),
            context_len=longest + 256,
            max_batch_tokens=max(sizes.prefills),
            kv_bytes=self._kv_bytes(),
        )

    def _kv_bytes(self) -> int:
        if self._device != "cuda":
            return 1 << 28
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        return max(0, free - _SPARE_BYTES)


if __name__ == "__main__":
    typer.run(main)
