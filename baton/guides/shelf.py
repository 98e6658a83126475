"""Keeps what was made of the last guides, each made once, however many ask for it meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from baton.errors import Overloaded
from baton.request import Guide

T = TypeVar("T")
R = TypeVar("R")

NUM_THREADS = 2
MAX_MAKING = 64
"""Guides being made or waiting for a thread. Most take milliseconds, the worst a second or two."""
RETRY_AFTER_SECONDS = 1.0


class Shelf(Generic[T]):
    """The least recently wanted goes first. Made and used on the event loop; makes in threads."""

    def __init__(self, make: Callable[[Guide], T], capacity: int) -> None:
        self._make = make
        self._capacity = capacity
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="guides")
        self._kept: OrderedDict[bytes, asyncio.Future[T]] = OrderedDict()
        self._num_making = 0

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, guide: Guide) -> T:
        """What is kept for a guide; made now if nothing is.

        Raises `Overloaded` for a new guide while `MAX_MAKING` others are being made.
        """
        digest = _digest(guide)
        kept = self._kept.get(digest) or self._begin(digest, guide)
        self._kept.move_to_end(digest)
        # Shielded: one that leaves must not take it from the others that wait for it.
        return await asyncio.shield(kept)

    async def use(self, guide: Guide, work: Callable[[T], R]) -> R:
        """What `work` makes, in a thread, of what is kept for a guide. Raises as `get` does."""
        made = await self.get(guide)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, made)

    def close(self) -> None:
        """Ends the threads behind what they do now."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, digest: bytes, guide: Guide) -> asyncio.Future[T]:
        if self._num_making >= MAX_MAKING:
            raise Overloaded(
                f"{self._num_making} new guides wait to be compiled, the limit; come back in "
                f"{RETRY_AFTER_SECONDS:g} s",
                retry_after_s=RETRY_AFTER_SECONDS,
            )
        making = asyncio.get_running_loop().run_in_executor(self._threads, self._make, guide)
        self._num_making += 1
        self._kept[digest] = making
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        making.add_done_callback(lambda made: self._on_made(digest, made))
        return making

    def _on_made(self, digest: bytes, made: asyncio.Future[T]) -> None:
        self._num_making -= 1
        has_failed = made.cancelled() or made.exception() is not None
        if has_failed and self._kept.get(digest) is made:
            del self._kept[digest]


def _digest(guide: Guide) -> bytes:
    # A lone surrogate is no text that could be compiled, but it must not break this either.
    source = guide.source.encode("utf-8", "surrogatepass")
    return bytes([guide.kind.value]) + hashlib.blake2b(source, digest_size=16).digest()
