"""What a request's client has not taken yet: one merged chunk per sample, however much it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from baton.errors import BatonError
from baton.request import TokenLogprobs
from services.gateway.types import Chunk


class Mailbox:
    """Filled by links, emptied by one reader; at most one chunk per sample, never a queue."""

    def __init__(self) -> None:
        self._pending: dict[int, _Merged] = {}
        self._error: BatonError | None = None
        self._is_closed = False
        self._news = asyncio.Event()
        self.num_merged = 0
        """Chunks that joined one still waiting."""

    def put(self, chunk: Chunk) -> None:
        """Adds a chunk; it joins the one of its sample that still waits."""
        merged = self._pending.get(chunk.sample_index)
        if merged is None:
            merged = self._pending[chunk.sample_index] = _Merged(chunk)
        else:
            self.num_merged += 1
            merged.add(chunk)
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
        return self._pending.pop(next(iter(self._pending))).chunk()


@dataclass(slots=True)
class _Merged:
    """Chunks of one sample, in order."""

    last: Chunk
    earlier: list[Chunk] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        self.earlier.append(self.last)
        self.last = chunk

    def chunk(self) -> Chunk:
        if not self.earlier:
            return self.last
        parts = [*self.earlier, self.last]
        token_ids: list[int] = []
        logprobs: list[TokenLogprobs] = []
        for part in parts:
            token_ids += part.token_ids
            logprobs += part.logprobs
        return Chunk(
            sample_index=self.last.sample_index,
            text="".join(part.text for part in parts),
            token_ids=tuple(token_ids),
            logprobs=tuple(logprobs),
            finish_reason=self.last.finish_reason,
            stop_string=self.last.stop_string,
            stop_token_id=self.last.stop_token_id,
        )
