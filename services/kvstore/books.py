"""Who has what on disk: blocks by key, bytes by tenant and segment, and which segment goes next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from baton.blocks import BlockKey
from baton.policy.quota import Quotas
from services.kvstore.records import Placed
from services.kvstore.segments import OpenSegment, SegmentFile

ENOUGH_SHARE = 0.5
"""An older segment goes before the one with the most bytes of whoever gives, if it has so much."""


@dataclass(slots=True)
class DiskBlock:
    """A block on disk. Mutable: uses are marked on the hot path."""

    placed: Placed
    segment: SegmentFile | OpenSegment
    is_used: bool = False
    """Read since it was written: it survives its segment."""

    @property
    def file(self) -> SegmentFile:
        """The file that it is in, or on its way to."""
        return self.segment.file if isinstance(self.segment, OpenSegment) else self.segment


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A segment that makes room."""

    index: int
    """Among those it was chosen from."""
    protected: frozenset[str]
    """Tenants within their shares: their blocks there are written again, used or not."""


class DiskBooks:
    """The blocks of a disk tier. A key is held once, in the segment it was written to last."""

    def __init__(self, capacity_bytes: int, weights: Mapping[str, float]) -> None:
        self._quotas = Quotas(capacity_bytes, weights)
        self._blocks: dict[BlockKey, DiskBlock] = {}
        self._shares: dict[int, dict[str, int]] = {}
        """Bytes by tenant in each segment that has any, by its id."""

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._blocks

    def keys(self) -> Iterable[BlockKey]:
        """Of all blocks, in no order."""
        return self._blocks.keys()

    def get(self, key: BlockKey) -> DiskBlock | None:
        """The block, if it is there."""
        return self._blocks.get(key)

    def tenant_bytes(self, tenant: str) -> int:
        """Bytes that count against a tenant's quota."""
        return self._quotas.used(tenant)

    def hold(self, block: DiskBlock) -> None:
        """Takes a block in; another under its key is forgotten."""
        record = block.placed.record
        self.forget(record.key)
        self._blocks[record.key] = block
        self._quotas.charge(record.tenant, record.size_bytes)
        shares = self._shares.setdefault(block.file.segment_id, {})
        shares[record.tenant] = shares.get(record.tenant, 0) + record.size_bytes

    def forget(self, key: BlockKey) -> None:
        """The block is gone. Idempotent."""
        block = self._blocks.pop(key, None)
        if block is None:
            return
        record, segment_id = block.placed.record, block.file.segment_id
        self._quotas.refund(record.tenant, record.size_bytes)
        shares = self._shares[segment_id]
        shares[record.tenant] -= record.size_bytes
        if not shares[record.tenant]:
            del shares[record.tenant]
        if not shares:
            del self._shares[segment_id]

    def choose(self, segment_ids: Sequence[int], tenant: str, num_bytes: int) -> Reclaim:
        """Which of the segments, oldest first, makes room for `num_bytes` of a tenant.

        One over its share pays with a segment that is mostly its own; for one within its share
        the most overdrawn pays. With one tenant the oldest goes.
        """
        tenants = self._quotas.tenants()
        if tenants in ([], [tenant]):
            return Reclaim(0, frozenset())
        for giver in self._quotas.givers(tenant, num_bytes):
            held = [self._shares.get(segment_id, {}).get(giver, 0) for segment_id in segment_ids]
            if most := max(held):
                index = next(at for at, size in enumerate(held) if size >= ENOUGH_SHARE * most)
                return Reclaim(index, frozenset(self._within_shares(tenants)) - {giver})
        return Reclaim(0, frozenset())

    def _within_shares(self, tenants: Iterable[str]) -> Iterable[str]:
        return (name for name in tenants if self._quotas.used(name) <= self._quotas.share(name))
