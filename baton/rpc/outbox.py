"""What waits to be written to a stream: at once when it is idle, coalesced when behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

Part = TypeVar("Part")


class Outbox(Generic[Part]):
    """Parts of the next frame. While a frame is being written, the parts of the next one gather.

    Frames leave `least_interval_s` apart or more, the first behind a pause at once: a message costs
    either side a tenth of a millisecond however little is in it, and its receiver can't say that it
    is behind.
    """

    def __init__(self, least_interval_s: float = 0.0) -> None:
        self._least_interval_s = least_interval_s
        self._parts: list[Part] = []
        self._reader: asyncio.Future[None] | None = None
        """Of `batches`, where it waits for a part or the end."""
        self._taken = asyncio.Event()
        self._is_closed = False

    def put(self, part: Part) -> None:
        """Adds a part to the next frame; ignored once closed."""
        if not self._is_closed:
            self._parts.append(part)
            self._wake()

    def close(self) -> None:
        """Ends `batches` behind what is pending."""
        self._is_closed = True
        self._wake()
        self._taken.set()

    async def has_room(self, max_parts: int) -> None:
        """Returns once no more than so many parts wait, or it is closed.

        For whoever reads what makes parts: while nobody takes them, no more should be made.
        """
        while len(self._parts) > max_parts and not self._is_closed:
            self._taken.clear()
            await self._taken.wait()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def batches(self) -> AsyncIterator[list[Part]]:
        """All pending parts, again and again; ask for the next when the last one is written."""
        next_at = 0.0
        while True:
            if not self._parts and not self._is_closed:
                self._reader = asyncio.get_running_loop().create_future()
                await self._reader
            early_s = next_at - time.monotonic()
            if early_s > 0 and not self._is_closed:
                await asyncio.sleep(early_s)
            next_at = time.monotonic() + self._least_interval_s
            parts, self._parts = self._parts, []
            self._taken.set()
            if parts:
                yield parts
            elif self._is_closed:
                return
