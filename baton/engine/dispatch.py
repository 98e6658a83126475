"""Dispatch: turns the policy of `scheduler` into a step's work, with the blocks that it needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from baton.engine.ledger import BlockLedger
from baton.engine.roster import Roster
from baton.engine.scheduler import StepLimits, choose_victim, plan_chunks
from baton.engine.sequence import Sequence


@dataclass(slots=True)
class StepPlan:
    """A step's work."""

    chunks: dict[Sequence, int] = field(default_factory=dict)
    """Tokens to compute, in the batch's order."""
    admitted: list[Sequence] = field(default_factory=list)
    """Sequences that got their blocks, running or receiving."""
    impossible: list[Sequence] = field(default_factory=list)
    """Running sequences that do not fit into the whole arena."""


class Dispatcher:
    """Finds blocks for running sequences, preempting if it must, then admits waiting ones."""

    def __init__(
        self, roster: Roster, ledger: BlockLedger, limits: StepLimits, context_len: int
    ) -> None:
        self._roster = roster
        self._ledger = ledger
        self._limits = limits
        self._context_len = context_len

    def may_preempt(self) -> bool:
        """Whether `plan` might preempt somebody, or find one that doesn't fit into the arena."""
        return not self._ledger.has_blocks_for(self._willing())

    def plan(self) -> StepPlan:
        """The next step's work. Changes who runs, receives and waits."""
        plan = StepPlan()
        if self._roster.running:
            plan.chunks = plan_chunks(self._willing(), self._limits)
            self._find_blocks(plan)
        if self._roster.waiting.is_ready:
            self._admit(plan)
        return plan

    def _find_blocks(self, plan: StepPlan) -> None:
        for sequence, num_tokens in list(plan.chunks.items()):
            # Most have room already: their newest token needs no new block.
            if self._ledger.has_capacity(sequence, sequence.num_computed + num_tokens):
                continue
            if sequence in plan.chunks:
                self._grow(sequence, plan)

    def _willing(self) -> list[Sequence]:
        """Running sequences without those that will have ended when the next step begins."""
        return [
            sequence
            for sequence in self._roster.running
            if not (sequence.num_unread and sequence.will_end(self._context_len))
        ]

    def _grow(self, sequence: Sequence, plan: StepPlan) -> None:
        num_tokens = sequence.num_computed + plan.chunks[sequence]
        if not self._ledger.fits_arena(num_tokens):
            del plan.chunks[sequence]
            plan.impossible.append(sequence)
            return
        while not self._ledger.has_capacity(sequence, num_tokens):
            if self._ledger.grow(sequence):
                continue
            victim = choose_victim(self._roster.running)
            assert victim is not None, "a sequence that grows may itself be preempted"
            self._roster.preempt(victim)
            plan.chunks.pop(victim, None)
            if victim is sequence:
                return

    def _admit(self, plan: StepPlan) -> None:
        """Admits in order. Nobody overtakes one that lacks blocks; a receiver needs only blocks."""
        budget = self._limits.max_tokens - sum(plan.chunks.values())
        set_aside = 0
        can_compute = True
        while (sequence := self._roster.waiting.first(can_compute)) is not None:
            has_slot = len(self._roster.running) < self._limits.max_sequences
            if not sequence.must_receive and (budget <= 0 or not has_slot):
                # Its blocks are set aside, or a stream of receiving sequences would keep it out for
                # good.
                can_compute = False
                set_aside = self._ledger.shortage(sequence) if self._receives() else 0
                continue
            if not self._ledger.admit(sequence, set_aside):
                return
            self._roster.admit(sequence)
            plan.admitted.append(sequence)
            if not sequence.must_receive:
                plan.chunks[sequence] = min(budget, sequence.num_uncomputed)
                budget -= plan.chunks[sequence]

    def _receives(self) -> bool:
        return self._roster.waiting.first(with_compute=False) is not None
