"""The disk tier: a log of segments within a budget. One event loop owns it; threads move bytes."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from baton.blocks import BlockKey, checksum
from baton.errors import BatonError
from baton.rpc import logs
from services.kvstore.books import DiskBlock, DiskBooks
from services.kvstore.records import SEAL_BYTES, Placed, Record
from services.kvstore.segments import SUFFIX, OpenSegment, SegmentFile

MIN_SEGMENT_BYTES = 1 << 20
MAX_SEGMENT_BYTES = 64 << 20
BUFFER_BYTES = 128 << 20
"""Of segments on their way to disk; when all are full, blocks that leave memory are gone."""
READ_THREADS = 4
WRITE_STEP_BYTES = 4 << 20
"""Written at once when so much has gathered; what is less waits for more, or for the end."""
MAX_KEPT_SHARE = 0.5
"""Of a segment that is reclaimed: what was used goes round again, up to here."""

_log = logs.get_logger(__name__)


@dataclass(slots=True)
class DiskStats:
    """Counts since the start."""

    num_hits: int = 0
    num_written: int = 0
    written_bytes: int = 0
    """Of blocks, those written again included: what wears the disk."""
    num_evicted: int = 0
    num_kept: int = 0
    """Blocks written again when their segment was reclaimed: used ones, and protected ones."""
    num_refused: int = 0
    """Blocks not written: too large, or the disk was behind."""
    num_unwanted: int = 0
    """Blocks not written: used too seldom to wear a full disk for them."""
    num_corrupt: int = 0
    num_recovered: int = 0
    recovery_s: float = 0.0


class DiskTier:
    """Blocks in segment files of a folder of its own, `capacity_bytes` in all.

    `append` copies a block into the segment that is being filled and returns; a thread writes it.
    When room for a new segment is short one is reclaimed, the oldest of those that hold much of the
    tenant that must give (`DiskBooks.choose`). Blocks that were read since they were written, and
    those of tenants within their shares, go round again; the others are gone. A segment that is not
    sealed at a start was being written when the process died: its whole records are kept. Bytes are
    verified whenever they are read.
    """

    def __init__(
        self,
        folder: Path,
        capacity_bytes: int,
        on_removed: Callable[[BlockKey], None],
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """`weights`: of tenants, 1 for the others."""
        self.capacity_bytes = capacity_bytes
        self.stats = DiskStats()
        self._folder = folder
        self._on_removed = on_removed
        part = capacity_bytes // 32 // mmap.PAGESIZE * mmap.PAGESIZE
        self._segment_bytes = max(MIN_SEGMENT_BYTES, min(MAX_SEGMENT_BYTES, part))
        self.books = DiskBooks(capacity_bytes, weights or {})
        self._sealed: list[tuple[SegmentFile, list[Placed]]] = []
        """Oldest first."""
        self._open: OpenSegment | None = None
        self._buffers: list[mmap.mmap] = []
        self._next_id = 1
        self._lock = -1
        self._writer = ThreadPoolExecutor(1, "disk-writer")
        self._readers = ThreadPoolExecutor(READ_THREADS, "disk-reader")
        self._writes: set[asyncio.Future[None]] = set()
        self._reclaiming: asyncio.Task[None] | None = None
        self._has_failed = False

    def __len__(self) -> int:
        return len(self.books)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self.books

    @property
    def used_bytes(self) -> int:
        """Bytes of all segment files."""
        files = sum(file.size_bytes for file, _ in self._sealed)
        return files + (self._open.file.size_bytes if self._open else 0)

    @property
    def has_free_segment(self) -> bool:
        """Whether blocks may come without others going."""
        return self.used_bytes + self._segment_bytes <= self.capacity_bytes

    def find(self, key: BlockKey, namespace: str) -> DiskBlock | None:
        """A block of this namespace."""
        block = self.books.get(key)
        return block if block is not None and block.placed.record.namespace == namespace else None

    def keys(self) -> Iterable[BlockKey]:
        """Of all blocks on disk, in no order."""
        return self.books.keys()

    async def start(self) -> None:
        """Takes the folder and what is whole in it. Raises BatonError if that can't be."""
        began = time.monotonic()
        try:
            await asyncio.to_thread(self._recover)
        except OSError as error:
            raise BatonError(f"disk tier {self._folder}: {error.strerror or error}") from error
        num_buffers = max(2, BUFFER_BYTES // self._segment_bytes)
        self._buffers = [mmap.mmap(-1, self._segment_bytes) for _ in range(num_buffers)]
        self.stats.num_recovered = len(self.books)
        self.stats.recovery_s = time.monotonic() - began
        _log.info(
            "disk tier recovered",
            blocks=len(self.books),
            bytes=self.used_bytes,
            seconds=round(self.stats.recovery_s, 3),
        )

    async def stop(self) -> None:
        """Writes and seals what is open."""
        if self._reclaiming is not None:
            self._reclaiming.cancel()
            await asyncio.wait([self._reclaiming])
        self._seal()
        if self._writes:
            await asyncio.wait(set(self._writes))
        self._writer.shutdown()
        self._readers.shutdown()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def append(self, record: Record, data: memoryview) -> bool:
        """Takes a block in, if there is room for it now; `data` is copied."""
        if record.key in self.books:
            return True
        is_new = self._append(record, data)
        if is_new:
            self.stats.num_written += 1
        else:
            self.stats.num_refused += 1
        return is_new

    async def read(self, block: DiskBlock, target: memoryview) -> bool:
        """Fills `target` with the block's bytes; False, and the block is gone, if they are bad."""
        record = block.placed.record
        segment = block.segment
        if isinstance(segment, OpenSegment):
            target[:] = segment.view(block.placed)
            is_right = checksum(target) == record.checksum
        else:
            loop = asyncio.get_running_loop()
            place = block.placed
            is_right = await loop.run_in_executor(
                self._readers, _read_verified, segment, place, target
            )
        if is_right:
            block.is_used = True
            self.stats.num_hits += 1
        elif self.books.get(record.key) is block:
            self.stats.num_corrupt += 1
            self._drop(record.key)
        return is_right

    async def settled(self) -> None:
        """Waits until what is on its way to disk, and what makes room for it, has got there."""
        while self._writes:
            await asyncio.wait(set(self._writes))
        if self._reclaiming is not None:
            await asyncio.wait([self._reclaiming])

    async def flush(self) -> None:
        """Waits until all that was appended is in files."""
        if self._open is not None:
            self._write_out(self._open)
        await self.settled()

    def _append(self, record: Record, data: memoryview) -> bool:
        if self._has_failed:
            return False
        if self._open is not None and not self._open.has_room(record):
            self._seal()
        if self._open is None and not self._begin_segment(record):
            return False
        assert self._open is not None
        if not self._open.has_room(record):
            return False
        placed = self._open.append(record, data)
        self.books.hold(DiskBlock(placed, self._open))
        self.stats.written_bytes += record.size_bytes
        if self._open.end - self._open.written >= WRITE_STEP_BYTES:
            self._write_out(self._open)
        return True

    def _begin_segment(self, record: Record) -> bool:
        """Opens a segment if there is room on disk and a buffer that is not being written."""
        if not self.has_free_segment:
            self._reclaim(record)
            return False
        if not self._buffers:
            return False
        try:
            file = SegmentFile.create(self._folder, self._next_id, self._segment_bytes)
        except OSError as error:
            self._fail(error)
            return False
        self._next_id += 1
        self._open = OpenSegment(file, self._buffers.pop())
        # In good time: when this one is full the next should have its room.
        if not self.has_free_segment:
            self._reclaim(record)
        return True

    def _seal(self) -> None:
        segment, self._open = self._open, None
        if segment is None:
            return
        self._sealed.append((segment.file, segment.placed))
        end = segment.end

        def write() -> None:
            segment.write_out(end)
            segment.file.seal(segment.placed)

        self._in_writer(write, lambda: self._close_segment(segment))

    def _close_segment(self, segment: OpenSegment) -> None:
        """All is in the file: from here on it is read from there."""
        for placed in segment.placed:
            block = self.books.get(placed.record.key)
            if block is not None and block.segment is segment:
                block.segment = segment.file
        self._buffers.append(segment.buffer)

    def _write_out(self, segment: OpenSegment) -> None:
        end = segment.end
        self._in_writer(lambda: segment.write_out(end), lambda: None)

    def _in_writer(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        future = asyncio.get_running_loop().run_in_executor(self._writer, work)
        self._writes.add(future)

        def done(_: object) -> None:
            self._writes.discard(future)
            error = future.exception()
            if error is None:
                then()
            else:
                self._fail(error)

        future.add_done_callback(done)

    def _fail(self, error: BaseException) -> None:
        """The disk does not take bytes: nothing is written any more, what is held is still read."""
        if not self._has_failed:
            _log.error("disk tier writes no more", reason=str(error), folder=str(self._folder))
        self._has_failed = True

    def _reclaim(self, wanting: Record) -> None:
        if self._reclaiming is None or self._reclaiming.done():
            self._reclaiming = asyncio.create_task(self._reclaim_until_free(wanting))

    async def _reclaim_until_free(self, wanting: Record) -> None:
        while self._sealed and not self.has_free_segment:
            await self._reclaim_one(wanting)

    async def _reclaim_one(self, wanting: Record) -> None:
        """Makes room for a segment; some blocks of the one that goes are written again."""
        if self._writes:
            await asyncio.wait(set(self._writes))  # it may itself be on its way yet
        ids = [file.segment_id for file, _ in self._sealed]
        chosen = self.books.choose(ids, wanting.tenant, wanting.size_bytes)
        file, placed = self._sealed[chosen.index]
        held = [
            block
            for each in placed
            if (block := self.books.get(each.record.key)) is not None and block.segment is file
        ]
        is_safe = [block.placed.record.tenant in chosen.protected for block in held]
        first = [block for block, safe in zip(held, is_safe, strict=True) if safe]
        then = [b for b, safe in zip(held, is_safe, strict=True) if not safe and b.is_used]
        kept = await self._read_some(file, first + then)
        del self._sealed[chosen.index]
        file.path.unlink(missing_ok=True)
        for each in placed:
            block = self.books.get(each.record.key)
            if block is not None and block.file is file:
                if each.record.key not in kept:
                    self.stats.num_evicted += 1
                    self._drop(each.record.key)
                    continue
                self.books.forget(each.record.key)
        await self._write_again(kept)

    async def _write_again(self, kept: Mapping[BlockKey, tuple[Record, bytearray]]) -> None:
        for key, (record, data) in kept.items():
            if key in self.books:
                continue
            is_kept = self._append(record, memoryview(data))
            if not is_kept and self._writes:
                # No buffer was free; one is when a write has ended.
                await asyncio.wait(set(self._writes))
                is_kept = key in self.books or self._append(record, memoryview(data))
            if is_kept:
                self.stats.num_kept += 1
            else:
                self.stats.num_evicted += 1
                self._on_removed(key)

    async def _read_some(
        self, file: SegmentFile, blocks: list[DiskBlock]
    ) -> dict[BlockKey, tuple[Record, bytearray]]:
        kept: dict[BlockKey, tuple[Record, bytearray]] = {}
        room = int(self._segment_bytes * MAX_KEPT_SHARE)
        loop = asyncio.get_running_loop()
        for block in blocks:
            record = block.placed.record
            room -= record.size_bytes
            if room < 0:
                break
            data = bytearray(record.size_bytes)
            view = memoryview(data)
            if await loop.run_in_executor(self._readers, _read_verified, file, block.placed, view):
                kept[record.key] = (record, data)
        return kept

    def _drop(self, key: BlockKey) -> None:
        self.books.forget(key)
        self._on_removed(key)

    def _recover(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._lock = os.open(self._folder / "lock", flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BatonError(f"disk tier {self._folder} belongs to another kvstore") from None
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            self._recover_segment(path)
        while self._sealed and self.used_bytes > self.capacity_bytes:
            file, placed = self._sealed.pop(0)
            for each in placed:
                block = self.books.get(each.record.key)
                if block is not None and block.segment is file:
                    self.books.forget(each.record.key)
            file.path.unlink(missing_ok=True)

    def _recover_segment(self, path: Path) -> None:
        try:
            file = SegmentFile.open(path)
            placed, is_sealed = file.recover()
            self._next_id = max(self._next_id, file.segment_id + 1)
            if not placed:
                path.unlink()
                return
            if not is_sealed and placed[-1].end <= file.size_bytes - _index_bytes(placed):
                file.seal(placed)
        except (OSError, ValueError) as error:
            _log.warning("segment skipped", path=str(path), reason=str(error))
            return
        self._sealed.append((file, placed))
        for each in placed:
            self.books.hold(DiskBlock(each, file))


def _index_bytes(placed: list[Placed]) -> int:
    return SEAL_BYTES + sum(each.index_bytes for each in placed)


def _read_verified(file: SegmentFile, placed: Placed, target: memoryview) -> bool:
    """For a reader's thread."""
    try:
        is_whole = file.read_into(target, placed.data_offset)
    except OSError as error:
        _log.warning("disk read failed", path=str(file.path), reason=str(error))
        return False
    return is_whole and checksum(target) == placed.record.checksum
