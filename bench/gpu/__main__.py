"""`python -m bench.gpu`: everything a GPU run needs, one part after the other, within a budget."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.entry import RESULTS, conclude, introduce, open_console
from bench.machine import describe_machine
from bench.report import Cell, Report, Table

ROOT = Path(__file__).resolve().parents[2]
_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class Part:
    """A command, and how long it may take."""

    name: str
    command: tuple[str, ...]
    seconds: float
    """Of a whole run of 14 minutes; others are scaled."""
    paces_itself: bool = False
    """Whether it takes `--seconds`, and ends by itself with what it has."""


def parts_of(device: str, out: Path, *, is_quick: bool) -> list[Part]:
    """What a run does, most valuable first: wrong results make all figures worthless."""
    python = (sys.executable, "-m")
    tail = ("--device", device, "--out", str(out), *(("--quick",) if is_quick else ()))
    shapes = ("tiny", "tiny") if is_quick else ("qwen3-8b", "llama-3.1-8b")
    tests = (
        ("tests/kernels/test_static_plan.py",) if is_quick else ("tests/kernels", "tests/engine")
    )

    def engine(shape: str, what: str) -> tuple[str, ...]:
        return (*python, "bench.gpu.engine", "--shape", shape, "--what", what, *tail)

    return [
        Part(
            "checks", (*python, "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *tests), 210
        ),
        Part("steps, " + shapes[0], engine(shapes[0], "steps"), 140, paces_itself=True),
        Part("kernels", (*python, "bench.kernels", *tail), 200, paces_itself=True),
        Part("ablations", engine(shapes[0], "ablations"), 110, paces_itself=True),
        Part("steps, " + shapes[1], engine(shapes[1], "steps"), 110, paces_itself=True),
        Part("transformers", engine(shapes[0], "transformers"), 70, paces_itself=True),
    ]


def main(
    *,
    minutes: Annotated[float, typer.Option(help="Of the whole run.")] = 14.0,
    device: Annotated[str, typer.Option(help="cuda; cpu to rehearse.")] = "cuda",
    only: Annotated[
        list[str] | None, typer.Option(help="Parts whose name begins so; repeatable.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes: shows that it works, not how fast.")
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for results.", show_default="bench/results")
    ] = RESULTS,
) -> None:
    """Check kernels on this GPU, then measure steps, kernels and ablations. One after the other.

    Every part writes its own page into the folder of results as soon as it is done.
    """
    console = open_console()
    machine = describe_machine() | {"command": " ".join(["python -m bench.gpu", *sys.argv[1:]])}
    opening = introduce(machine, console)
    chosen = [
        part
        for part in parts_of(device, out, is_quick=quick)
        if not only or part.name.startswith(tuple(only))
    ]
    results = run_parts(chosen, 60 * minutes, console)
    report = Report(machine, quick, (opening.result("Parts", [_table(results)]),), "A run on a GPU")
    conclude(report, out, (("gpu", True), (device, True), ("quick", quick)), console)
    sys.exit(0 if all(each.code == 0 for each in results) else 1)


@dataclass(frozen=True, slots=True)
class Result:
    """How a part went."""

    name: str
    code: int | None
    """None: it was cut off, or never begun."""
    seconds: float
    last_words: str


def run_parts(parts: Sequence[Part], seconds: float, console: Console) -> list[Result]:
    """Each gets its share of the seconds, and what those before it left over."""
    end = time.monotonic() + seconds
    scale = min(1.0, seconds / sum(part.seconds for part in parts)) if parts else 1.0
    results, saved = [], 0.0
    for part in parts:
        limit = min(part.seconds * scale + saved, end - time.monotonic())
        if limit <= 0:
            results.append(Result(part.name, None, 0.0, "no time was left"))
            continue
        console.rule(f"{part.name}: at most {limit:.0f} s")
        results.append(_run(part, limit, console))
        saved = limit - results[-1].seconds
    return results


def _run(part: Part, limit: float, console: Console) -> Result:
    began = time.monotonic()
    # One that paces itself has a while to finish what it began, and is cut off only if it hangs.
    pace = ("--seconds", f"{0.8 * limit:.0f}") if part.paces_itself else ()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*part.command, *pace], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, text=True
        )
        code = _wait(process, limit + (_GRACE_S if part.paces_itself else 0.0))
        said.seek(0)
        text = said.read()
    console.print(text, markup=False, highlight=False)
    lines = [line for line in text.splitlines() if line.strip()]
    seconds = time.monotonic() - began
    return Result(part.name, code, seconds, lines[-1].strip()[:160] if lines else "")


def _wait(process: subprocess.Popen[str], limit: float) -> int | None:
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest then still says what it has done
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def _table(results: Sequence[Result]) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            each.name,
            "done" if each.code == 0 else "cut off" if each.code is None else f"exit {each.code}",
            each.seconds,
            each.last_words.replace("|", "/"),
        )
        for each in results
    )
    return Table("Parts, in order", ("part", "outcome", "seconds", "last words"), rows)


if __name__ == "__main__":
    typer.run(main)
