"""Puts the pieces of one Put together and into the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from baton.blocks import BlockKey, checksum
from services.kvstore import limits, metrics
from services.kvstore.store import BlockStore, Rank, StoredBlock


@dataclass(slots=True)
class _Partial:
    """A block of which some pieces have come. Without room its bytes are skipped."""

    key: BlockKey
    namespace: str
    size_bytes: int
    rank: Rank
    has_room: bool
    data: bytes | bytearray = b""
    num_bytes: int = 0
    """Bytes that came, skipped ones included."""

    @property
    def is_whole(self) -> bool:
        """Whether the last piece has come."""
        return self.num_bytes == self.size_bytes

    def append(self, data: bytes) -> None:
        """Takes the bytes behind those that came."""
        start, self.num_bytes = self.num_bytes, self.num_bytes + len(data)
        if not self.has_room:
            return
        if len(data) == self.size_bytes:
            self.data = data  # came in one piece: no copy
            return
        if not isinstance(self.data, bytearray):
            self.data = bytearray(self.size_bytes)  # exactly what was reserved
        self.data[start : self.num_bytes] = data


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
        if partial is None or (partial.key != piece.key and piece.offset_bytes == 0):
            self.finish()
            partial = self._begin(piece)
        data: bytes = piece.data
        limits.check_piece(
            piece.offset_bytes,
            data,
            expected_offset=partial.num_bytes if partial.key == piece.key else 0,
            size_bytes=partial.size_bytes,
        )
        partial.append(data)
        if partial.is_whole:
            self._partial = None
            self._end(partial, piece.checksum)

    def finish(self) -> None:
        """Drops a block whose last pieces never came."""
        partial, self._partial = self._partial, None
        if partial is not None:
            self._drop(partial, "torn")

    def _begin(self, piece: Any) -> _Partial:
        key = limits.check_key(piece.key)
        namespace = limits.check_namespace(piece.namespace)
        size_bytes = limits.check_size(piece.size_bytes)
        rank = (self._use, -self._num_blocks)
        is_present = self._store.touch(key, self._use, self._num_blocks)
        has_room = not is_present and self._store.reserve(namespace, size_bytes, rank)
        self._num_blocks += 1
        self._partial = _Partial(key, namespace, size_bytes, rank, has_room)
        return self._partial

    def _end(self, partial: _Partial, expected: int) -> None:
        if partial.key in self._store:
            self._release(partial)
            self.num_present += 1
        elif not partial.has_room:
            self._drop(partial, "no_room")
        elif checksum(partial.data) != expected:
            self._drop(partial, "checksum")
        else:
            block = StoredBlock(partial.namespace, partial.data, expected, partial.rank)
            self._store.commit(partial.key, block)
            self.num_stored += 1

    def _drop(self, partial: _Partial, reason: str) -> None:
        self._release(partial)
        self.num_refused += 1
        metrics.refused.labels(reason).inc()

    def _release(self, partial: _Partial) -> None:
        if partial.has_room:
            self._store.abandon(partial.namespace, partial.size_bytes)
