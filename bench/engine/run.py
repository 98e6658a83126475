"""One run: every cell asked of every subject in turn, round after round."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from baton.engine.model.config import ModelConfig
from bench.engine.subjects import RunningSubject, SubjectSpec
from bench.options import Run

BATCHES = (1, 8, 32)
PROMPTS = (512, 2048)
DECODE_PROMPT_LEN = 128
_NUM_TOKENS = {1: 16, 8: 8, 32: 6}


@dataclass(slots=True)
class Measured:
    """Milliseconds by (subject, batch or prompt length): a figure per round."""

    decode_ms: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    prefill_ms: dict[tuple[str, int], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    tokens: dict[tuple[str, int, int], list[list[int]]] = field(default_factory=dict)
    """By (subject, batch, round)."""

    def decode(self, title: str, batch: int) -> float | None:
        """The median round's median step."""
        found = self.decode_ms.get((title, batch))
        return median(found) if found else None

    def prefill(self, title: str, num_tokens: int) -> float | None:
        """The median round."""
        found = self.prefill_ms.get((title, num_tokens))
        return median(found) if found else None

    def agreement(self, title: str, base: str) -> float | None:
        """Share of answers that are the base's, token by token."""
        same, total = 0, 0
        for (of, *cell), answers in self.tokens.items():
            wanted = self.tokens.get((base, cell[0], cell[1]))
            if of == title and wanted is not None:
                same += sum(a == b for a, b in zip(answers, wanted, strict=True))
                total += len(answers)
        return same / total if total else None


async def run_cells(
    run: Run,
    specs: Sequence[SubjectSpec],
    model: Path,
    config: ModelConfig,
    threads_rounds: tuple[int, int],
) -> Measured:
    """Measures all cells so many rounds with so many threads, warm."""
    threads, rounds = threads_rounds
    measured = Measured()
    run.steps.begin("engine", len(specs) + (len(BATCHES) + len(PROMPTS)) * rounds + 1)
    async with AsyncExitStack() as stack:
        subjects = []
        for spec in specs:
            run.steps.next(f"loading {spec.title}")
            subjects.append(await RunningSubject.start(spec, model, threads))
            stack.push_async_callback(subjects[-1].stop)
        run.steps.next("warming up")
        for subject in subjects:
            await subject.decode(_prompts(config, 1, 64, seed=0), 4)
        for index in range(rounds):
            await _round(run, subjects, config, index, measured)
    return measured


async def _round(
    run: Run,
    subjects: Sequence[RunningSubject],
    config: ModelConfig,
    index: int,
    measured: Measured,
) -> None:
    for batch in BATCHES:
        run.steps.next(f"decode, batch {batch}")
        prompts = _prompts(config, batch, DECODE_PROMPT_LEN, seed=1000 * index + batch)
        for subject in subjects:
            steps, tokens = await subject.decode(prompts, _NUM_TOKENS[batch])
            measured.decode_ms[subject.title, batch].append(median(steps))
            measured.tokens[subject.title, batch, index] = tokens
    for num_tokens in PROMPTS:
        run.steps.next(f"prefill, {num_tokens} tokens")
        (prompt,) = _prompts(config, 1, num_tokens, seed=1000 * index + num_tokens)
        for subject in subjects:
            measured.prefill_ms[subject.title, num_tokens].append(await subject.prefill(prompt))


def _prompts(config: ModelConfig, count: int, length: int, seed: int) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(config.vocab_size) for _ in range(length)] for _ in range(count)]
