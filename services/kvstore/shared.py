"""Memory of workers on this host that the store reads blocks from."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from baton.errors import TransferFailed
from baton.transfer.shm import SharedSegment, owner_is_dead

MAX_SEGMENTS = 64
"""Mapped at a time; a worker has one or two."""


class Sources:
    """Segments of workers, mapped for reading when a nonce proves that they are the same memory."""

    def __init__(self) -> None:
        self._segments: OrderedDict[str, SharedSegment] = OrderedDict()

    def __len__(self) -> int:
        return len(self._segments)

    def memory(self, message: Any) -> memoryview:
        """The bytes of a `SharedMemory`. Raises `TransferFailed` where they can't be had."""
        segment = self._segments.get(message.name)
        if segment is None or segment.nonce != message.nonce:
            segment = self._open(message)
        self._segments.move_to_end(message.name)
        if segment.num_bytes < message.size_bytes:
            raise TransferFailed(f"segment {message.name} has only {segment.num_bytes} bytes")
        return segment.buffer

    def forget_dead(self) -> None:
        """Lets go of memory whose owners are gone."""
        for name in [name for name in self._segments if owner_is_dead(name)]:
            self._segments.pop(name).close()

    def close(self) -> None:
        """Lets go of all memory."""
        while self._segments:
            self._segments.popitem()[1].close()

    def _open(self, message: Any) -> SharedSegment:
        self.forget_dead()
        try:
            segment = SharedSegment.open(
                message.name, message.nonce, message.size_bytes, writable=False
            )
        except (OSError, ValueError) as error:
            raise TransferFailed(f"memory of the caller can't be mapped: {error}") from error
        self._segments[message.name] = segment
        while len(self._segments) > MAX_SEGMENTS:
            self._segments.popitem(last=False)[1].close()
        return segment
