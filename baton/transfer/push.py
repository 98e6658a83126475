"""How a prefill worker moves finished blocks into a decode worker's reserved ones."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from baton.blocks import KvLayout, checksum
from baton.errors import TransferFailed
from baton.transfer.shm import SharedSegment

PIECE_BYTES = 512 * 1024
"""Keeps a message under one megabyte; larger pieces measured slower and dearer."""
_INLINE_BYTES = 4 << 20
"""Copied on the spot: a quarter of a millisecond, and no thread to wake beside a busy engine."""
_QUEUED_PIECES = 8
"""4 MB on their way: enough to keep a stream busy, little to hold back a cancel."""


class SourceArena(Protocol):
    """What a pusher reads."""

    def read(self, block_id: int) -> bytes:
        """A block's bytes, wherever the arena lies."""

    def block_bytes_view(self, block_id: int) -> memoryview:
        """A block's bytes in place; host memory only."""


@dataclass(frozen=True, slots=True)
class PushJob:
    """Blocks to move: `sources[i]` of the prefill worker to `targets[i]` of the decode worker."""

    session_id: int
    first_index: int
    """Index of the first one among the session's blocks."""
    sources: tuple[int, ...]
    targets: tuple[int, ...]


class Pusher(Protocol):
    """A transport, as its sender sees it. One per connection; a session's jobs come in order."""

    name: str

    async def push(self, job: PushJob, *, verify: bool) -> list[int]:
        """Moves the blocks; returns checksums if asked to verify. Raises `TransferFailed`.

        When it returns, or raises, or its cancellation has been awaited, no byte of the job is
        written any more.
        """

    async def close(self) -> None:
        """Gives back what the connection held, behind the last job."""


class ShmPusher:
    """Copies from this process's arena into the decode worker's, mapped here: one plain copy."""

    name = "shm"

    def __init__(
        self, arena: SourceArena, target: SharedSegment, layout: KvLayout, num_target_blocks: int
    ) -> None:
        self._arena = arena
        self._target = target
        self._block_bytes = layout.block_bytes
        self._num_target_blocks = num_target_blocks
        self._target_address = _address(target.buffer)
        # One thread: copies beside the engine's thread, never two that race for memory bandwidth.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push")

    async def push(self, job: PushJob, *, verify: bool) -> list[int]:
        """See `Pusher`."""
        over = [block for block in job.targets if not 0 <= block < self._num_target_blocks]
        if over:
            raise TransferFailed(
                f"target block {over[0]} lies outside the arena of {self._num_target_blocks} blocks"
            )
        if len(job.sources) * self._block_bytes <= _INLINE_BYTES:
            return self._copy(job, verify)
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._copy, job, verify)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    async def close(self) -> None:
        """See `Pusher`."""
        await asyncio.to_thread(self._thread.shutdown)
        self._target.close()

    def _copy(self, job: PushJob, verify: bool) -> list[int]:
        for source, target, count in _runs(job.sources, job.targets):
            # memmove through ctypes gives the interpreter lock back while it copies.
            ctypes.memmove(
                self._target_address + target * self._block_bytes,
                _address(self._arena.block_bytes_view(source)),
                count * self._block_bytes,
            )
        if not verify:
            return []
        return [checksum(self._arena.block_bytes_view(source)) for source in job.sources]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a block on its way through a byte stream."""

    session_id: int
    block_index: int
    offset: int
    data: bytes
    checksum: int
    """Of the whole block, in its last piece; else 0."""


class StreamPusher:
    """Sends pieces through a byte stream that the decode worker opened: anywhere, at a cost."""

    name = "grpc"

    def __init__(self, arena: SourceArena) -> None:
        self._arena = arena
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue(_QUEUED_PIECES)

    async def push(self, job: PushJob, *, verify: bool) -> list[int]:
        """See `Pusher`. The decode worker writes and verifies; only reading happens here."""
        sums: list[int] = []
        for index, source in enumerate(job.sources, job.first_index):
            data = await asyncio.to_thread(self._arena.read, source)
            total = checksum(data)
            sums.append(total)
            for offset in range(0, len(data), PIECE_BYTES):
                part = data[offset : offset + PIECE_BYTES]
                is_last = offset + PIECE_BYTES >= len(data)
                piece = Piece(job.session_id, index, offset, part, total if is_last else 0)
                await self._pieces.put(piece)
        return sums if verify else []

    async def close(self) -> None:
        """See `Pusher`."""

    async def pieces(self) -> AsyncIterator[Piece]:
        """The stream's content, for the handler that writes it."""
        while True:
            yield await self._pieces.get()


def _runs(sources: Sequence[int], targets: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Joins neighbours that lie side by side in both arenas: (source, target, count)."""
    start = 0
    for at in range(1, len(sources) + 1):
        is_joined = (
            at < len(sources)
            and sources[at] == sources[at - 1] + 1
            and targets[at] == targets[at - 1] + 1
        )
        if not is_joined:
            yield sources[start], targets[start], at - start
            start = at


def _address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
