"""Caches of workers that announce no events: guessed from what was routed to them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from baton.blocks import BlockKey
from baton.policy.index import BlockIndex

TTL_S = 120.0
"""A block is taken for cached for so long behind its last use, in seconds."""
MAX_BLOCKS = 65_536
"""Guessed per worker at the most, about 8 MB, where its record doesn't say how many it has."""


class PredictedCaches:
    """Keeps the index for such workers: stored when routed, gone when old or when too many.

    Time is an argument, in seconds of any one clock. A worker belongs here or announces events,
    never both.
    """

    def __init__(self, index: BlockIndex, ttl_s: float = TTL_S) -> None:
        self._index = index
        self._ttl_s = ttl_s
        self._ends: dict[str, dict[BlockKey, float]] = {}
        """Worker to its blocks and when they end, least recently used first."""

    def routed(self, worker_id: str, keys: Iterable[BlockKey], max_blocks: int, now: float) -> None:
        """A prompt with these blocks goes to the worker, which holds `max_blocks`; 0: unknown.

        What it pushes out was used longest ago, ends of chains before their beginnings.
        """
        ends = self._ends.setdefault(worker_id, {})
        end = now + self._ttl_s
        for key in reversed(list(keys)):
            ends.pop(key, None)
            ends[key] = end
            self._index.store(worker_id, key)
        self._drop(worker_id, len(ends) - (max_blocks or MAX_BLOCKS))

    def expire(self, now: float) -> None:
        """Forgets what is too old; cheap while nothing is."""
        for worker_id, ends in self._ends.items():
            num_old = 0
            for end in ends.values():
                if end > now:
                    break
                num_old += 1
            self._drop(worker_id, num_old)

    def forget(self, worker_id: str) -> None:
        """The worker is gone, and what was guessed of it."""
        if self._ends.pop(worker_id, None) is not None:
            self._index.clear(worker_id)

    def _drop(self, worker_id: str, num: int) -> None:
        ends = self._ends[worker_id]
        for key in list(islice(ends, max(0, num))):
            del ends[key]
            self._index.remove(worker_id, key)
