"""The engine: one for both roles. A step is schedule, run, commit."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from baton.blocks import BlockKey, root_key
from baton.engine.arena import Arena
from baton.engine.dispatch import Dispatcher, StepPlan
from baton.engine.ledger import BlockLedger
from baton.engine.load import measure
from baton.engine.pool import BlockPool
from baton.engine.roster import Roster
from baton.engine.scheduler import StepLimits
from baton.engine.sequence import Sequence, SequenceState
from baton.engine.types import (
    EngineConfig,
    Finished,
    NewToken,
    Progress,
    Reserved,
    SequenceSpec,
    StepLoad,
    StepOutput,
)
from baton.engine.validation import check_resume, check_spec
from baton.errors import InvalidRequest
from baton.request import FinishReason
from baton.tokens import TokenIds


class Launched(Protocol):
    """A step that a runner has begun."""

    @property
    def drawing(self) -> Collection[Sequence]:
        """Sequences that thereby catch up with what they know, and get a token each."""

    @property
    def is_late(self) -> bool:
        """Whether its draw depends on tokens that were unread at the launch."""

    def draw(self) -> None:
        """Launches the draw unless it was: all tokens of the step before have been read."""

    def read(self) -> Mapping[Sequence, NewToken]:
        """Waits for the tokens."""


class Runner(Protocol):
    """What computes: chunks of sequences in, drawn tokens out. Made over the engine's arena."""

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end a sequence which does not ignore them."""

    def launch(self, chunks: Mapping[Sequence, int]) -> Launched:
        """Fills the slots of each sequence's next so many tokens; changes no sequence.

        Steps take effect in order. The tokens of the one before may be unread, no older ones.
        """


# Not frozen: one for each step.
@dataclass(slots=True)
class _Flight:
    """A step between its launch and the reading of its tokens."""

    chunks: Mapping[Sequence, int]
    step: Launched
    work: StepLoad
    began_ns: int


class Engine:
    """Runs sequences over the blocks of an arena. One thread owns it; nothing in it waits.

    Every sequence that `add` takes ends in exactly one `Finished`. News gathers until `step` hands
    it out. One that looks ahead has a step in flight between two calls of `step`.
    """

    def __init__(self, runner: Runner, config: EngineConfig, arena: Arena) -> None:
        _check_sizes(config, arena)
        self.config = config
        self.arena = arena
        self.layout = arena.layout
        self._eos_ids = runner.eos_token_ids
        self._vocab_size = runner.vocab_size
        self._runner = runner
        self._pool = BlockPool(config.num_blocks)
        self._ledger = BlockLedger(self.layout, self._pool)
        self._roster = Roster(self._ledger)
        limits = StepLimits(config.max_batch_tokens, config.max_sequences)
        self._dispatcher = Dispatcher(self._roster, self._ledger, limits, config.context_len)
        self._flight: _Flight | None = None
        self._landed = StepLoad()  # what landed since news were handed out
        self._landed_ns = 0
        self._num_late_draws = 0
        self._num_wasted = 0
        self._news = StepOutput()
        self._has_news = False
        self._is_stalled = False  # nobody in line can be admitted before a call changes something
        self._num_arrived = 0
        self._num_steps = 0

    @property
    def num_free_blocks(self) -> int:
        """Blocks that can be handed out, cached ones that nobody holds included."""
        return self._pool.num_free

    @property
    def num_used_blocks(self) -> int:
        """Blocks that are held: by sequences, by pins, kept or in quarantine."""
        return self._pool.num_used

    @property
    def num_sequences(self) -> int:
        """Sequences that have not ended."""
        return len(self._roster)

    @property
    def has_work(self) -> bool:
        """Whether `step` would compute, admit, or hand out news."""
        if self._has_news or self._pool.has_events or self._roster.running or self._flight:
            return True
        return self._roster.waiting.is_ready and not self._is_stalled

    def add(self, spec: SequenceSpec) -> None:
        """Takes a sequence. Raises `InvalidRequest` for one that this engine can never run."""
        name, sampling = spec.sequence_id, spec.sampling
        if self._roster.find(name) is not None or self._ledger.is_kept(name):
            raise InvalidRequest(f"sequence id {name!r} is in use", field="sequence_id")
        check_spec(spec, self.config, self._vocab_size)
        stop_ids = frozenset() if sampling.ignore_eos else self._eos_ids
        if sampling.stop_token_ids:
            stop_ids |= {i for i in sampling.stop_token_ids if i < self._vocab_size}
        sequence = Sequence(
            spec=spec,
            order=(-spec.priority, self._num_arrived),
            root=root_key(self.layout.namespace, spec.cache_salt),
            stop_ids=stop_ids,
            added_ns=time.monotonic_ns(),
            token_ids=TokenIds.of(spec.token_ids).to_array(),
            must_receive=spec.receive,
        )
        self._num_arrived += 1
        self._is_stalled = False
        self._roster.enter(sequence)
        if sequence.is_matched:
            self._end(sequence, FinishReason.STOP)
        elif sequence.is_full(self.config.context_len):
            self._end(sequence, FinishReason.LENGTH)

    def cancel(self, sequence_id: str) -> None:
        """Ends a sequence in any state with CANCELLED; an unknown or ended one is left alone.

        Its blocks are free at once, except those that a RECEIVING one has reserved: bytes may still
        arrive there, so they stay in quarantine until `release`.
        """
        sequence = self._roster.find(sequence_id)
        if sequence is not None:
            self._end(sequence, FinishReason.CANCELLED)

    def resume(self, sequence_id: str, num_computed: int, token: NewToken | None = None) -> None:
        """Lets a RECEIVING sequence run: its first `num_computed` tokens have their KV.

        With `token` all known tokens must be computed; it counts as drawn here. Without it the
        engine computes the rest. Who resumes has written the last byte: a sequence that has ended
        meanwhile only gives its blocks back. Anything else raises `InvalidRequest`.
        """
        sequence = self._roster.find(sequence_id)
        if sequence is None:
            self.release(sequence_id)
            return
        check_resume(sequence, num_computed, token, self._vocab_size)
        self._roster.resume(sequence)
        # Without a token at least the last known one is computed here, to draw from.
        most = sequence.num_known - (1 if token is None else 0)
        sequence.num_computed = min(num_computed, most)
        self._note_progress(sequence)
        if token is not None:
            self._accept(sequence, token, is_received=True)

    def release(self, sequence_id: str) -> None:
        """Frees blocks that `prefill_only` kept or `cancel` quarantined. Repeats do nothing."""
        if self._ledger.release(sequence_id):
            self._is_stalled = False
            self._has_news = True  # the load changed

    def pin(self, keys: Iterable[BlockKey]) -> list[tuple[BlockKey, int]]:
        """The cached ones of `keys` with their blocks, held until `unpin`."""
        return self._pool.pin(keys)

    def unpin(self, keys: Iterable[BlockKey]) -> None:
        """Lets go of keys that `pin` returned, once per pin."""
        self._pool.unpin(keys)
        self._is_stalled = False

    def cached_keys(self) -> list[BlockKey]:
        """Keys in the prefix cache, block events included that `step` has yet to hand out."""
        return self._pool.cached_keys()

    def step(self) -> StepOutput:
        """Runs one batch, if anything can run, and hands out all news since the last step.

        Looking ahead, it launches that batch and hands out the news of the one before.
        """
        began_ns = time.monotonic_ns()
        self._num_steps += 1
        # Nobody is preempted for a token that may not be wanted.
        if self._flight is not None and self._dispatcher.may_preempt():
            self._land()
        plan = self._dispatcher.plan()
        # Who is in line was refused just now: only an end or a call can change that.
        self._is_stalled = True
        self._report(plan)
        flight = self._launch(plan.chunks, began_ns) if plan.chunks else None
        self._land()
        if flight is not None:
            self._take_off(flight)
        if not self.config.looks_ahead:
            self._land()
        return self._hand_out()

    def _launch(self, chunks: Mapping[Sequence, int], began_ns: int) -> _Flight:
        return _Flight(chunks, self._runner.launch(chunks), measure(chunks), began_ns)

    def _take_off(self, flight: _Flight) -> None:
        """Counts a step as computed and its tokens as known, but for those who just ended."""
        self._num_late_draws += flight.step.is_late
        flight.step.draw()
        for sequence, num_tokens in flight.chunks.items():
            if sequence.state is SequenceState.RUNNING:
                sequence.num_computed += num_tokens
                sequence.last_step = self._num_steps
        for sequence in flight.step.drawing:
            if sequence.state is SequenceState.RUNNING:
                sequence.expect()
        self._flight = flight

    def _land(self) -> None:
        """Reads the tokens of the step in flight, if there is one, and takes them in.

        Blocks that its sequences gave back meanwhile are written by nobody after this, so only
        now may others hear of blocks that the next step's plan found.
        """
        flight, self._flight = self._flight, None
        if flight is None:
            return
        drawn = flight.step.read()
        for sequence in flight.chunks:
            if sequence.state is SequenceState.OVER:
                self._num_wasted += sequence in drawn
            else:
                self._commit(sequence, drawn.get(sequence))
        began_ns, self._landed_ns = max(flight.began_ns, self._landed_ns), time.monotonic_ns()
        self._landed = flight.work
        self._landed.step_us = (self._landed_ns - began_ns) // 1000

    def _report(self, plan: StepPlan) -> None:
        now_ns = time.monotonic_ns()
        for sequence in plan.admitted:
            sequence.note_admission(now_ns)
            if sequence.must_receive:
                self._news.reserved.append(self._reserved(sequence))
        for sequence in plan.impossible:
            self._end(
                sequence,
                FinishReason.ERROR,
                f"{sequence.num_known} tokens need more blocks than all {self.config.num_blocks}",
            )

    def _reserved(self, sequence: Sequence) -> Reserved:
        num_full = sequence.num_known // self.layout.block_size
        return Reserved(
            sequence_id=sequence.sequence_id,
            block_ids=tuple(sequence.table),
            block_keys=tuple(self._ledger.keys(sequence, num_full)[:num_full]),
            num_cached_tokens=sequence.num_computed,
        )

    def _commit(self, sequence: Sequence, token: NewToken | None) -> None:
        self._note_progress(sequence)
        if sequence.spec.prefill_only:
            covered = self.layout.num_blocks(sequence.num_computed)
            blocks = tuple(sequence.table[:covered])
            progress = Progress(sequence.sequence_id, sequence.num_computed, blocks)
            self._news.progress.append(progress)
        if sequence.guide_fault:
            self._end(sequence, FinishReason.ERROR, sequence.guide_fault, field="guide")
        elif token is not None:
            self._accept(sequence, token)

    def _note_progress(self, sequence: Sequence) -> None:
        self._ledger.store_full(sequence)
        if not sequence.has_shared:
            self._roster.share(sequence)

    def _accept(self, sequence: Sequence, token: NewToken, is_received: bool = False) -> None:
        sequence.learn(token.token_id, time.monotonic_ns(), is_received)
        self._news.tokens.append(token)
        self._has_news = True
        reason = sequence.end_reason(self.config.context_len)
        if sequence.guide_fault:
            self._end(sequence, FinishReason.ERROR, sequence.guide_fault, field="guide")
        elif reason is not None:
            self._end(sequence, reason)

    def _end(
        self, sequence: Sequence, reason: FinishReason, error: str = "", field: str = ""
    ) -> None:
        keep = sequence.spec.prefill_only and reason is FinishReason.LENGTH
        self._roster.leave(sequence, keep_blocks=keep)
        sequence.forget_unread()
        stats = sequence.stats(time.monotonic_ns())
        self._news.finished.append(Finished(sequence.sequence_id, reason, stats, error, field))
        self._has_news = True
        self._is_stalled = False

    def _hand_out(self) -> StepOutput:
        news, self._news, self._has_news = self._news, StepOutput(), False
        news.load, self._landed = self._landed, StepLoad()
        self._look_around(news.load)
        news.block_events = self._pool.take_events()
        return news

    def _look_around(self, load: StepLoad) -> None:
        """The state behind a step."""
        roster, pool = self._roster, self._pool
        uncomputed = sum([sequence.num_uncomputed for sequence in roster.running])
        load.num_running = len(roster.running)
        load.num_waiting = len(roster.waiting)
        load.num_receiving = roster.num_receiving
        load.num_waiting_tokens = roster.waiting.num_tokens + uncomputed
        load.num_used_blocks = pool.num_used
        load.num_blocks = pool.num_blocks
        load.num_preemptions = roster.num_preemptions
        load.num_late_draws = self._num_late_draws
        load.num_wasted_tokens = self._num_wasted


def _check_sizes(config: EngineConfig, arena: Arena) -> None:
    if (arena.num_blocks, arena.layout.block_size) != (config.num_blocks, config.block_size):
        raise ValueError(
            f"an arena of {arena.num_blocks} blocks of {arena.layout.block_size} tokens does not"
            f" fit a config of {config.num_blocks} blocks of {config.block_size}"
        )
    if min(config.num_blocks, config.max_batch_tokens, config.max_sequences) < 1:
        raise ValueError("num_blocks, max_batch_tokens and max_sequences must be at least 1")
