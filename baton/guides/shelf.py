"""Keeps what was made of the last guides, each made once, however many ask for it meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from baton.request import Guide

T = TypeVar("T")
R = TypeVar("R")

NUM_THREADS = 2


class Shelf(Generic[T]):
    """The least recently wanted goes first. Made and used on the event loop; makes in threads."""

    def __init__(self, make: Callable[[Guide], T], capacity: int) -> None:
        self._make = make
        self._capacity = capacity
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="guides")
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, Future[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    async def use(self, guide: Guide, work: Callable[[T], R]) -> R:
        """What `work` makes, in a thread, of what is kept for a guide."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(self._find(guide)))

    def close(self) -> None:
        """Ends the threads behind what they do now."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _find(self, guide: Guide) -> T:
        digest = _digest(guide)
        with self._lock:
            found = self._kept.get(digest)
            mine = Future[T]() if found is None else None
            if mine is not None:
                self._kept[digest] = mine
                if len(self._kept) > self._capacity:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(digest)
        if found is not None:
            return found.result()
        assert mine is not None
        try:
            mine.set_result(self._make(guide))
        except BaseException as error:
            mine.set_exception(error)
            with self._lock:
                self._kept.pop(digest, None)
        return mine.result()


def _digest(guide: Guide) -> bytes:
    # A lone surrogate is no text that could be compiled, but it must not break this either.
    source = guide.source.encode("utf-8", "surrogatepass")
    return bytes([guide.kind.value]) + hashlib.blake2b(source, digest_size=16).digest()
