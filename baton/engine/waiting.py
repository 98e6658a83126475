"""The waiting queue: by priority, then by arrival; children stand aside for their parents."""

from __future__ import annotations

from bisect import bisect_left, insort
from operator import attrgetter

from baton.engine.sequence import Sequence

_order = attrgetter("order")


class WaitingQueue:
    """Sequences that hold no blocks, in two lanes: for computing and for receiving.

    A sequence with an `after` parent stands aside until the parent has shared its blocks or is
    gone. It never stands aside for a parent that waits behind it, so the first in line always
    depends on nobody in line.
    """

    def __init__(self) -> None:
        self._compute: list[Sequence] = []
        self._receive: list[Sequence] = []
        self._aside: dict[str, list[Sequence]] = {}
        self._num_aside = 0
        self.num_tokens = 0
        """Known tokens of all waiting sequences."""

    def __len__(self) -> int:
        return len(self._compute) + len(self._receive) + self._num_aside

    @property
    def is_ready(self) -> bool:
        """Whether anybody is in line."""
        return bool(self._compute or self._receive)

    def add(self, sequence: Sequence, parent: Sequence | None = None) -> None:
        """Puts a sequence in line, or aside for its living parent."""
        self.num_tokens += sequence.num_known
        if parent is None:
            insort(self._lane(sequence), sequence, key=_order)
        else:
            self._aside.setdefault(parent.sequence_id, []).append(sequence)
            self._num_aside += 1

    def first(self, with_compute: bool = True) -> Sequence | None:
        """The first in line; of the receiving lane only without `with_compute`."""
        receiving = self._receive[0] if self._receive else None
        computing = self._compute[0] if self._compute and with_compute else None
        if receiving is None or computing is None:
            return receiving or computing
        return min(receiving, computing, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out, from wherever it stands."""
        self.num_tokens -= sequence.num_known
        lane = self._lane(sequence)
        at = bisect_left(lane, sequence.order, key=_order)
        if at < len(lane) and lane[at] is sequence:
            del lane[at]
            return
        parent_id = sequence.spec.after
        assert parent_id is not None, f"sequence {sequence.sequence_id} is not waiting"
        self._aside[parent_id].remove(sequence)
        self._num_aside -= 1

    def let_in(self, parent_id: str, before: tuple[int, int] | None = None) -> None:
        """Puts a parent's children in line; with `before` only those ahead of that place."""
        children = self._aside.pop(parent_id, None)
        if children is None:
            return
        staying = [child for child in children if before is not None and child.order > before]
        if staying:
            self._aside[parent_id] = staying
        self._num_aside -= len(children) - len(staying)
        for child in children:
            if before is None or child.order <= before:
                insort(self._lane(child), child, key=_order)

    def _lane(self, sequence: Sequence) -> list[Sequence]:
        return self._receive if sequence.must_receive else self._compute
