"""The roster: every living sequence, where it stands, and its way from there."""

from __future__ import annotations

from bisect import insort
from operator import attrgetter

from baton.engine.ledger import BlockLedger
from baton.engine.sequence import Sequence, SequenceState
from baton.engine.waiting import WaitingQueue

_order = attrgetter("order")


class Roster:
    """Sequences by state. A sequence enters once, moves between the states, and leaves once."""

    def __init__(self, ledger: BlockLedger) -> None:
        self._ledger = ledger
        self._sequences: dict[str, Sequence] = {}
        self._num_receiving = 0
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        """In order of `order`."""
        self.num_preemptions = 0

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def num_receiving(self) -> int:
        """Sequences that wait for `Engine.resume`."""
        return self._num_receiving

    def find(self, sequence_id: str) -> Sequence | None:
        """A living sequence."""
        return self._sequences.get(sequence_id)

    def enter(self, sequence: Sequence) -> None:
        """A new sequence waits; aside, if it has a parent to share blocks with."""
        self._sequences[sequence.sequence_id] = sequence
        after = sequence.spec.after
        self.waiting.add(sequence, None if after is None else self._parent_of(sequence, after))

    def admit(self, sequence: Sequence) -> None:
        """A waiting sequence has got its blocks: it runs, or receives."""
        self.waiting.remove(sequence)
        if sequence.must_receive:
            sequence.state = SequenceState.RECEIVING
            self._num_receiving += 1
        else:
            self._run(sequence)

    def resume(self, sequence: Sequence) -> None:
        """A receiving sequence runs; from now on it computes what it lacks."""
        sequence.must_receive = False
        self._num_receiving -= 1
        self._run(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """A running sequence gives up its blocks and waits in its old place to be recomputed."""
        self.running.remove(sequence)
        self._ledger.free(sequence)
        sequence.state = SequenceState.WAITING
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.add(sequence)
        # Children ahead of it must not wait for it now.
        self.waiting.let_in(sequence.sequence_id, before=sequence.order)

    def share(self, sequence: Sequence) -> None:
        """Lets children in once the tokens known at `add` are computed."""
        if sequence.num_computed >= len(sequence.spec.token_ids):
            sequence.has_shared = True
            self.waiting.let_in(sequence.sequence_id)

    def leave(self, sequence: Sequence, keep_blocks: bool = False) -> None:
        """A sequence is over. Its blocks are freed or kept; those still receiving, quarantined."""
        del self._sequences[sequence.sequence_id]
        if sequence.state is SequenceState.WAITING:
            self.waiting.remove(sequence)
        elif sequence.state is SequenceState.RECEIVING:
            self._num_receiving -= 1
            self._ledger.quarantine(sequence)
        else:
            self.running.remove(sequence)
            if keep_blocks:
                self._ledger.keep(sequence)
            else:
                self._ledger.free(sequence)
        sequence.state = SequenceState.OVER
        self.waiting.let_in(sequence.sequence_id)

    def _run(self, sequence: Sequence) -> None:
        sequence.state = SequenceState.RUNNING
        insort(self.running, sequence, key=_order)

    def _parent_of(self, sequence: Sequence, after: str) -> Sequence | None:
        """The parent that the sequence should wait for, if any."""
        parent = self._sequences.get(after)
        if parent is None or parent is sequence or parent.has_shared:
            return None
        is_behind = parent.state is SequenceState.WAITING and parent.order > sequence.order
        return None if is_behind else parent
