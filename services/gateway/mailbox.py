"""What a request's client has not taken yet: one merged chunk per sample, however much it is."""

from __future__ import annotations

import asyncio
from collections import deque

from baton.errors import BatonError
from baton.request import TokenLogprobs
from services.gateway.types import Chunk

MAX_CHUNK_TOKENS = 1024
"""Merging ends here: with 20 log-probabilities of 35 bytes a token, this is 0.7 MB."""


class Mailbox:
    """Filled by links, emptied by one reader, who gets all that came for a sample as one chunk."""

    def __init__(self) -> None:
        self._pending: dict[int, deque[Chunk]] = {}
        self._error: BatonError | None = None
        self._is_closed = False
        self._news = asyncio.Event()
        self.num_merged = 0
        """Chunks that were told together with the one before them."""

    def put(self, chunk: Chunk) -> None:
        """Adds a chunk behind those of its sample that still wait."""
        self._pending.setdefault(chunk.sample_index, deque()).append(chunk)
        self._news.set()

    def close(self, error: BatonError | None = None) -> None:
        """Ends the mailbox behind what waits, with an error or well. The first call counts."""
        if not self._is_closed:
            self._is_closed = True
            self._error = error
            self._news.set()

    async def take(self) -> Chunk | None:
        """The chunk that has waited longest; None at a good end. Raises the error of a bad one."""
        while not self._pending:
            if self._error is not None:
                raise self._error
            if self._is_closed:
                return None
            self._news.clear()
            await self._news.wait()
        sample = next(iter(self._pending))
        waiting = self._pending.pop(sample)
        chunk = self._merge(waiting)
        if waiting:
            self._pending[sample] = waiting
        return chunk

    def _merge(self, waiting: deque[Chunk]) -> Chunk:
        last = waiting.popleft()
        if not waiting:
            return last
        texts = [last.text]
        token_ids = list(last.token_ids)
        logprobs: list[TokenLogprobs] = list(last.logprobs)
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
