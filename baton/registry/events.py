"""Block events on their way to gateways: numbered, buffered, batched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from baton.blocks import KEY_BYTES, BlockKey
from baton.registry.records import Fields

MAX_BATCH_EVENTS = 1024
"""17 bytes an event: an entry stays below 18 KB."""
MAX_STREAM_ENTRIES = 256
"""13 s at one entry per 50 ms, and 4.5 MB at the very most; slower readers ask for a snapshot."""
MAX_BUFFERED_EVENTS = 65_536
"""About a megabyte; beyond it a snapshot is cheaper than the events."""

STORED, REMOVED, CLEARED = 1, 2, 3
_NO_KEY = bytes(KEY_BYTES)


class CacheEvent(Protocol):
    """Changes of a prefix cache that are of one kind, such as the engine's `BlockEvent`.

    Its kind's value is 1 (stored), 2 (removed) or 3 (cleared; one event, whatever its keys).
    """

    @property
    def kind(self) -> Enum:
        """What happened."""

    @property
    def keys(self) -> Sequence[BlockKey]:
        """To which blocks, in order; each counts as an event."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events in order, numbered from `first_seq`. An empty one says which number comes next."""

    epoch: str
    first_seq: int
    kinds: bytes
    """One byte an event."""
    joined_keys: bytes
    """16 bytes an event; those of a cleared event mean nothing."""

    @property
    def last_seq(self) -> int:
        """Number of the last event; `first_seq - 1` for an empty batch."""
        return self.first_seq + len(self.kinds) - 1

    def to_fields(self) -> Fields:
        """The batch as a stream entry."""
        return {
            "epoch": self.epoch,
            "seq": self.first_seq,
            "kinds": self.kinds,
            "keys": self.joined_keys,
        }

    @classmethod
    def from_fields(cls, raw: Mapping[bytes, bytes]) -> EventBatch:
        """The batch behind a stream entry. Raises ValueError where it makes no sense."""
        try:
            kinds, keys = raw[b"kinds"], raw[b"keys"]
            batch = cls(raw[b"epoch"].decode(), int(raw[b"seq"]), kinds, keys)
        except KeyError as error:
            raise ValueError(f"an event entry lacks {error}") from error
        if len(keys) != len(kinds) * KEY_BYTES:
            raise ValueError(f"an event entry has {len(kinds)} kinds and {len(keys)} bytes of keys")
        return batch


class EventBuffer:
    """Numbers events and keeps those that Redis has not taken yet.

    Bounded: when it would overflow, all of it is dropped. The numbers of the dropped events never
    appear in the stream; that gap makes every gateway ask for a snapshot.
    """

    def __init__(self, epoch: str, limit: int = MAX_BUFFERED_EVENTS) -> None:
        self.epoch = epoch
        self.num_lost = 0
        self._limit = limit
        # Packed: a thousand events are two copies instead of a thousand objects.
        self._kinds = bytearray()
        self._keys = bytearray()
        self._last_seq = 0

    def __len__(self) -> int:
        return len(self._kinds)

    @property
    def last_seq(self) -> int:
        """Number of the newest event, sent or not."""
        return self._last_seq

    def append(self, events: Iterable[CacheEvent]) -> None:
        """Numbers and keeps events."""
        for event in events:
            keys = event.keys if event.kind.value != CLEARED else (BlockKey(_NO_KEY),)
            self.add(event.kind.value, keys)

    def add(self, kind: int, keys: Sequence[BlockKey]) -> None:
        """As `append` for one event of a kind."""
        for at in range(0, len(keys), self._limit):
            self._keep(kind, keys[at : at + self._limit])

    def _keep(self, kind: int, keys: Sequence[BlockKey]) -> None:
        if len(self) + len(keys) > self._limit:
            self.drop()
        self._kinds += bytes([kind]) * len(keys)
        self._keys += b"".join(keys)
        self._last_seq += len(keys)

    def drop(self) -> None:
        """Gives up what is pending: gateways will see a gap."""
        self.num_lost += len(self)
        self._kinds.clear()
        self._keys.clear()

    def marker(self) -> EventBatch:
        """An empty batch that names the next event: shows a gap even when no event follows."""
        return EventBatch(self.epoch, self._first_pending, b"", b"")

    def batches(self, most: int) -> list[EventBatch]:
        """The oldest pending events in up to this many batches; they stay until `sent`."""
        size = MAX_BATCH_EVENTS
        return [
            EventBatch(
                self.epoch,
                self._first_pending + at,
                bytes(self._kinds[at : at + size]),
                bytes(self._keys[at * KEY_BYTES : (at + size) * KEY_BYTES]),
            )
            for at in range(0, min(len(self), most * size), size)
        ]

    def sent(self, last_seq: int) -> None:
        """Redis has all events up to this one."""
        num_sent = max(0, min(last_seq - self._first_pending + 1, len(self)))
        del self._kinds[:num_sent]
        del self._keys[: num_sent * KEY_BYTES]

    @property
    def _first_pending(self) -> int:
        return self._last_seq - len(self) + 1
