"""Puts the pieces of one Put together, in place, and into the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from baton.blocks import BlockKey, checksum
from services.kvstore import limits, metrics
from services.kvstore.store import BlockStore, Offer, StoredBlock


@dataclass(slots=True)
class _Partial:
    """A block of which some pieces have come. Without room its bytes are skipped."""

    offer: Offer
    room: StoredBlock | None
    num_bytes: int = 0
    """Bytes that came, skipped ones included."""

    @property
    def is_whole(self) -> bool:
        """Whether the last piece has come."""
        return self.num_bytes == self.offer.size_bytes


class Upload:
    """One Put. A context: what it holds in reserve is given back when it ends, however it ends."""

    def __init__(self, store: BlockStore) -> None:
        self.num_stored = 0
        self.num_present = 0
        self.num_refused = 0
        self._store = store
        self._use = store.new_use()
        self._num_blocks = 0
        self._partial: _Partial | None = None

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def add(self, piece: Any) -> None:
        """Takes the next piece. Raises InvalidRequest for one that makes no sense."""
        partial = self._partial
        if partial is None or (partial.offer.key != piece.key and piece.offset_bytes == 0):
            self.finish()
            partial = self._begin(piece)
        data: bytes = piece.data
        limits.check_piece(
            piece.offset_bytes,
            data,
            expected_offset=partial.num_bytes if partial.offer.key == piece.key else 0,
            size_bytes=partial.offer.size_bytes,
        )
        start, partial.num_bytes = partial.num_bytes, partial.num_bytes + len(data)
        if partial.room is not None:
            self._store.view(partial.room)[start : partial.num_bytes] = data
        if partial.is_whole:
            self._partial = None
            self._end(partial.offer, partial.room, piece.checksum)

    def copy(self, offer: Offer, source: memoryview, expected: int) -> None:
        """Takes a whole block from the caller's memory. The copy is what must match."""
        room = self._reserve(offer)
        if room is not None:
            self._store.view(room)[:] = source
        self._end(offer, room, expected)

    def offer(self, key: BlockKey, namespace: str, size: int, parent: bytes, tenant: str) -> Offer:
        """The next block of this call."""
        rank = (self._use, -self._num_blocks)
        self._num_blocks += 1
        return Offer(key, namespace, size, rank, BlockKey(parent) if parent else None, tenant)

    def finish(self) -> None:
        """Drops a block whose last pieces never came."""
        partial, self._partial = self._partial, None
        if partial is not None:
            self._drop(partial.room, "torn")

    def _begin(self, piece: Any) -> _Partial:
        offer = self.offer(
            limits.check_key(piece.key),
            limits.check_namespace(piece.namespace),
            limits.check_size(piece.size_bytes),
            limits.check_parent(piece.parent),
            limits.check_tenant(piece.tenant),
        )
        self._partial = _Partial(offer, self._reserve(offer))
        return self._partial

    def _reserve(self, offer: Offer) -> StoredBlock | None:
        if self._store.touch(offer.key, self._use, -offer.rank[1]):
            return None
        if not self._store.sketch.estimate(offer.key):
            # Nobody asked for it before it was computed: this is its first use.
            self._store.sketch.add(offer.key)
        return self._store.reserve(offer)

    def _end(self, offer: Offer, room: StoredBlock | None, expected: int) -> None:
        if room is None:
            if offer.key in self._store:
                self.num_present += 1
            else:
                self._drop(None, "no_room")
        elif checksum(self._store.view(room)) != expected:
            self._drop(room, "checksum")
        elif self._store.commit(room, expected) is None:  # it has come by another way meanwhile
            self.num_present += 1
        else:
            self.num_stored += 1

    def _drop(self, room: StoredBlock | None, reason: str) -> None:
        if room is not None:
            self._store.abandon(room)
        self.num_refused += 1
        metrics.refused.labels(reason).inc()
