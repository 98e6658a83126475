"""Leases: blocks that readers on this host copy from the store's memory stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from services.kvstore.store import StoredBlock


@dataclass(frozen=True, slots=True)
class _Lease:
    """Pinned blocks, until a time."""

    blocks: Sequence[StoredBlock]
    ends_at: float


class Leases:
    """Pinned blocks by lease. Time is an argument, in seconds."""

    def __init__(self, life_s: float, unpin: Callable[[StoredBlock], None]) -> None:
        self.life_s = life_s
        self.num_expired = 0
        self.num_blocks = 0
        self.num_bytes = 0
        self._unpin = unpin
        self._ids = count(1)
        # In the order of their ends: all live equally long.
        self._leases: dict[int, _Lease] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def grant(self, blocks: Sequence[StoredBlock], now: float) -> int:
        """Takes over the pins of these blocks; returns the lease's id, 0 for no blocks."""
        if not blocks:
            return 0
        lease_id = next(self._ids)
        self._leases[lease_id] = _Lease(blocks, now + self.life_s)
        self.num_blocks += len(blocks)
        self.num_bytes += sum(block.offer.size_bytes for block in blocks)
        return lease_id

    def release(self, lease_ids: Iterable[int]) -> None:
        """Ends leases; unknown and ended ones are skipped."""
        for lease_id in lease_ids:
            lease = self._leases.pop(lease_id, None)
            if lease is not None:
                self._end(lease)

    def expire(self, now: float) -> None:
        """Ends the leases whose time is over."""
        while self._leases:
            lease_id, lease = next(iter(self._leases.items()))
            if lease.ends_at > now:
                return
            self.num_expired += 1
            del self._leases[lease_id]
            self._end(lease)

    def _end(self, lease: _Lease) -> None:
        self.num_blocks -= len(lease.blocks)
        for block in lease.blocks:
            self.num_bytes -= block.offer.size_bytes
            self._unpin(block)
