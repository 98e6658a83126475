"""What a request's client has not taken yet: one merged chunk per sample, however much it is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from baton.errors import BatonError
from services.gateway.types import Chunk

MAX_CHUNK_TOKENS = 1024
"""Merging ends here: with 20 log-probabilities of 35 bytes a token, this is 0.7 MB."""

READERS_PER_TURN = 8
"""Readers woken between two looks at what has come in. An idle loop turns in some microseconds, so
nobody notices; a busy one takes in more tokens for those that still wait, which then leave in one
write. Chosen, not measured against other numbers."""


class Turnstile:
    """Lets the readers of all mailboxes go on, first come first served, a few per turn."""

    def __init__(self, readers_per_turn: int = READERS_PER_TURN) -> None:
        self._readers_per_turn = readers_per_turn
        self._due: deque[asyncio.Future[None]] = deque()
        self._num_woken = 0
        """Since the last turn."""
        self._is_turning = False

    def admit(self, reader: asyncio.Future[None]) -> None:
        """Wakes a reader, or puts it in line."""
        if self._due or self._num_woken >= self._readers_per_turn:
            self._due.append(reader)
        else:
            self._wake(reader)
        if not self._is_turning:
            self._is_turning = True
            reader.get_loop().call_soon(self._turn)

    def _turn(self) -> None:
        due, self._num_woken = self._due, 0
        for _ in range(min(self._readers_per_turn, len(due))):
            self._wake(due.popleft())
        if due:
            due[0].get_loop().call_soon(self._turn)
        else:
            self._is_turning = False

    def _wake(self, reader: asyncio.Future[None]) -> None:
        self._num_woken += 1
        if not reader.done():
            reader.set_result(None)


class Mailbox:
    """Filled by links, emptied by one reader, who gets all that came for a sample as one chunk."""

    def __init__(self, turnstile: Turnstile | None = None) -> None:
        self._turnstile = turnstile or Turnstile()
        self._pending: dict[int, deque[Chunk]] = {}
        self._error: BatonError | None = None
        self._is_closed = False
        self._reader: asyncio.Future[None] | None = None
        self._is_called = False
        """Whether the reader stands in line already."""
        self.first_taken_at = 0.0
        """On the clock of `time.monotonic()`; 0: nothing has been taken."""
        self.num_merged = 0
        """Chunks that were told together with the one before them."""

    def put(self, chunk: Chunk) -> None:
        """Adds a chunk behind those of its sample that still wait."""
        waiting = self._pending.get(chunk.sample_index)
        if waiting is None:
            self._pending[chunk.sample_index] = deque((chunk,))
        else:
            waiting.append(chunk)
        self._call()

    def close(self, error: BatonError | None = None) -> None:
        """Ends the mailbox behind what waits, with an error or well. The first call counts."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
            self._call()

    async def take(self) -> Chunk | None:
        """The chunk that has waited longest; None at a good end. Raises the error of a bad one."""
        while not self._pending:
            if self._error is not None:
                raise self._error
            if self._is_closed:
                return None
            self._is_called = False
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._next()

    def _next(self) -> Chunk:
        if not self.first_taken_at:
            self.first_taken_at = time.monotonic()
        sample = next(iter(self._pending))
        waiting = self._pending.pop(sample)
        if len(waiting) == 1:
            return waiting[0]
        chunk = self._merge(waiting)
        if waiting:
            self._pending[sample] = waiting
        return chunk

    def _call(self) -> None:
        if self._reader is not None and not self._is_called:
            self._is_called = True
            self._turnstile.admit(self._reader)

    def _merge(self, waiting: deque[Chunk]) -> Chunk:
        last = waiting.popleft()
        texts = [last.text]
        token_ids = list(last.token_ids)
        logprobs = list(last.logprobs)
        while waiting and len(token_ids) + len(waiting[0].token_ids) <= MAX_CHUNK_TOKENS:
            last = waiting.popleft()
            texts.append(last.text)
            token_ids += last.token_ids
            logprobs += last.logprobs
            self.num_merged += 1
        return Chunk(
            sample_index=last.sample_index,
            text="".join(texts),
            token_ids=tuple(token_ids),
            logprobs=tuple(logprobs),
            finish_reason=last.finish_reason,
            stop_string=last.stop_string,
            stop_token_id=last.stop_token_id,
        )


class Tray(Mailbox):
    """A mailbox whose reader empties many: it is told of news, and takes without waiting."""

    def __init__(self, on_news: Callable[[], None]) -> None:
        super().__init__()
        self._on_news = on_news
        self._end = asyncio.Event()

    def take_now(self) -> Chunk | None:
        """The chunk that has waited longest; None when none waits."""
        return self._next() if self._pending else None

    async def closed(self) -> None:
        """Returns at a good end, whatever waits to be taken. Raises the error of a bad one."""
        await self._end.wait()
        if self._error is not None:
            raise self._error

    def _call(self) -> None:
        if self._is_closed:
            self._end.set()
        self._on_news()
