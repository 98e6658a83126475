"""Block events on their way to gateways: numbered, buffered, batched."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Protocol

from baton.blocks import KEY_BYTES, BlockKey, split_keys
from baton.registry.records import Fields

MAX_BATCH_EVENTS = 1024
"""17 bytes an event: an entry stays below 18 KB."""
MAX_STREAM_ENTRIES = 1000
"""50 s at one entry per 50 ms, and 18 MB at the very most."""
MAX_BUFFERED_EVENTS = 65_536
"""About 10 MB of Python objects; beyond it a snapshot is cheaper than the events."""

STORED, REMOVED, CLEARED = 1, 2, 3
_NO_KEY = bytes(KEY_BYTES)


class CacheEvent(Protocol):
    """A change of a prefix cache, such as the engine's `BlockEvent`.

    Its kind's value is 1 (stored), 2 (removed) or 3 (cleared); a cleared event's key means nothing.
    """

    @property
    def kind(self) -> Enum:
        """What happened."""

    @property
    def key(self) -> BlockKey:
        """To which block."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events in order, numbered from `first_seq`. An empty one says which number comes next."""

    epoch: str
    first_seq: int
    kinds: bytes
    """One byte an event."""
    keys: tuple[BlockKey, ...]

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
            "keys": b"".join(self.keys),
        }

    @classmethod
    def from_fields(cls, raw: Mapping[bytes, bytes]) -> EventBatch:
        """The batch behind a stream entry. Raises ValueError where it makes no sense."""
        try:
            kinds, keys = raw[b"kinds"], tuple(split_keys(raw[b"keys"]))
            batch = cls(raw[b"epoch"].decode(), int(raw[b"seq"]), kinds, keys)
        except KeyError as error:
            raise ValueError(f"an event entry lacks {error}") from error
        if len(kinds) != len(keys):
            raise ValueError(f"an event entry has {len(kinds)} kinds and {len(keys)} keys")
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
        self._pending: deque[CacheEvent] = deque()
        self._last_seq = 0

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def last_seq(self) -> int:
        """Number of the newest event, sent or not."""
        return self._last_seq

    def append(self, events: Iterable[CacheEvent]) -> None:
        """Numbers and keeps events."""
        for event in events:
            if len(self._pending) >= self._limit:
                self.drop()
            self._pending.append(event)
            self._last_seq += 1

    def drop(self) -> None:
        """Gives up what is pending: gateways will see a gap."""
        self.num_lost += len(self._pending)
        self._pending.clear()

    def marker(self) -> EventBatch:
        """An empty batch that names the next event: shows a gap even when no event follows."""
        return EventBatch(self.epoch, self._first_pending, b"", ())

    def batches(self, most: int) -> list[EventBatch]:
        """The oldest pending events in up to this many batches; they stay until `sent`."""
        chosen = list(islice(self._pending, most * MAX_BATCH_EVENTS))
        return [
            EventBatch(
                self.epoch,
                self._first_pending + at,
                bytes([event.kind.value for event in chosen[at : at + MAX_BATCH_EVENTS]]),
                tuple([_key_of(event) for event in chosen[at : at + MAX_BATCH_EVENTS]]),
            )
            for at in range(0, len(chosen), MAX_BATCH_EVENTS)
        ]

    def sent(self, last_seq: int) -> None:
        """Redis has all events up to this one."""
        for _ in range(min(last_seq - self._first_pending + 1, len(self._pending))):
            self._pending.popleft()

    @property
    def _first_pending(self) -> int:
        return self._last_seq - len(self._pending) + 1


def _key_of(event: CacheEvent) -> BlockKey:
    return BlockKey(_NO_KEY) if event.kind.value == CLEARED else event.key
