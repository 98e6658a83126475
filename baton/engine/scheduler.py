"""Policy of a step: who computes how many tokens, and who gives way. Pure, on plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Candidate(Protocol):
    """What the policy sees of a running sequence."""

    @property
    def order(self) -> tuple[int, int]:
        """(-priority, arrival): the lower, the sooner."""

    @property
    def num_uncomputed(self) -> int:
        """Known tokens that are not computed; at least one."""

    @property
    def last_step(self) -> int:
        """The last step that scheduled it."""

    @property
    def is_preemptible(self) -> bool:
        """Whether it may be preempted."""


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Limits of one step."""

    max_tokens: int
    max_sequences: int


def plan_chunks(running: Sequence[C], limits: StepLimits) -> dict[C, int]:
    """Tokens that each running sequence computes: single ones first, then chunks with the rest.

    `running` is in order of `order`, and so is each of the two groups of the answer. Where not all
    single tokens fit, those of the same priority take turns.
    """
    limit = min(limits.max_tokens, limits.max_sequences)
    singles = [sequence for sequence in running if sequence.num_uncomputed == 1]
    if len(singles) > limit:
        singles.sort(key=lambda sequence: (sequence.order[0], sequence.last_step, sequence.order))
        singles = sorted(singles[:limit], key=lambda sequence: sequence.order)
    chunks = dict.fromkeys(singles, 1)
    if len(singles) == len(running):
        return chunks
    budget = limits.max_tokens - len(chunks)
    for sequence in running:
        if budget <= 0 or len(chunks) >= limits.max_sequences:
            break
        if sequence.num_uncomputed > 1:
            chunks[sequence] = min(budget, sequence.num_uncomputed)
            budget -= chunks[sequence]
    return chunks


def choose_victim(running: Iterable[C]) -> C | None:
    """The sequence to preempt: of the lowest priority the latest to arrive."""
    willing = (sequence for sequence in running if sequence.is_preemptible)
    return max(willing, key=lambda sequence: sequence.order, default=None)
