"""Segment files: written front to back once, sealed, read in any order, removed whole."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from baton.blocks import checksum
from services.kvstore.records import (
    SEAL_BYTES,
    Placed,
    Record,
    decode_header,
    decode_index,
    decode_seal,
    encode_header,
    encode_seal,
)

SUFFIX = ".blocks"
_HEADER_PEEK = 1024
"""Longer than any header: two names of 128 characters of at most three bytes and 76 bytes."""


class SegmentFile:
    """An open segment; its descriptor closes with the last reader."""

    def __init__(self, path: Path, segment_id: int, descriptor: int) -> None:
        self.path = path
        self.segment_id = segment_id
        self.size_bytes = os.fstat(descriptor).st_size
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def create(cls, folder: Path, segment_id: int, size_bytes: int) -> SegmentFile:
        """A new segment with all its room allocated. Raises OSError where there is none."""
        path = folder / f"{segment_id:016x}{SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return cls(path, segment_id, descriptor)

    @classmethod
    def open(cls, path: Path) -> SegmentFile:
        """A segment of an earlier process. Raises OSError or ValueError for what is none."""
        segment_id = int(path.name.removesuffix(SUFFIX), 16)
        return cls(path, segment_id, os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def write(self, data: memoryview | bytes, offset: int) -> None:
        """Writes all of it. Raises OSError."""
        view = memoryview(data)
        while len(view):
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def read_into(self, target: memoryview, offset: int) -> bool:
        """Fills the target; False where the file ends before. Raises OSError."""
        while len(target):
            num_read = os.preadv(self._descriptor, [target], offset)
            if not num_read:
                return False
            target, offset = target[num_read:], offset + num_read
        return True

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes. Raises OSError."""
        return os.pread(self._descriptor, length, offset)

    def seal(self, placed: list[Placed]) -> None:
        """Writes the index behind data that have reached the disk. Raises OSError."""
        os.fdatasync(self._descriptor)
        begin, index = encode_seal(self.segment_id, placed, self.size_bytes)
        self.write(index, begin)
        os.fdatasync(self._descriptor)
        # The store's own memory is the cache for these.
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def recover(self) -> tuple[list[Placed], bool]:
        """The records in it, and whether it was sealed. Raises OSError.

        Without a seal every record's bytes are verified, and the first that is not whole ends it.
        """
        seal = decode_seal(
            self.read(max(0, self.size_bytes - SEAL_BYTES), SEAL_BYTES), self.segment_id
        )
        if seal is not None:
            begin, length, total = seal
            found = decode_index(self.read(begin, length), self.segment_id, total)
            if found is not None:
                return found, True
        return self._scan(), False

    def _scan(self) -> list[Placed]:
        found: list[Placed] = []
        offset = 0
        while True:
            header = decode_header(self.read(offset, _HEADER_PEEK), self.segment_id)
            if header is None:
                return found
            placed = Placed(header[0], offset, header[1])
            data = self.read(placed.data_offset, placed.record.size_bytes)
            if len(data) < placed.record.size_bytes or checksum(data) != placed.record.checksum:
                return found
            found.append(placed)
            offset = placed.end


class OpenSegment:
    """The segment being filled: records go into memory at once, to the file in the background."""

    def __init__(self, file: SegmentFile, buffer: mmap.mmap) -> None:
        self.file = file
        self.buffer = buffer
        self.placed: list[Placed] = []
        self.end = 0
        self.written = 0
        """Bytes that are in the file."""
        self._index_bytes = SEAL_BYTES

    def has_room(self, record: Record) -> bool:
        """Whether a record and its part of the index fit."""
        placed = self._place(record)
        return placed.end + self._index_bytes + placed.index_bytes <= self.file.size_bytes

    def append(self, record: Record, data: memoryview) -> Placed:
        """Takes a record that fits."""
        placed = self._place(record)
        header = encode_header(record, self.file.segment_id)
        self.buffer[placed.offset : placed.data_offset] = header
        memoryview(self.buffer)[placed.data_offset : placed.data_offset + len(data)] = data
        self.end = placed.end
        self._index_bytes += placed.index_bytes
        self.placed.append(placed)
        return placed

    def view(self, placed: Placed) -> memoryview:
        """A record's bytes in memory."""
        start = placed.data_offset
        return memoryview(self.buffer)[start : start + placed.record.size_bytes]

    def write_out(self, end: int) -> None:
        """Writes what is new up to `end`. For the writer's thread. Raises OSError."""
        self.file.write(memoryview(self.buffer)[self.written : end], self.written)
        self.written = end

    def _place(self, record: Record) -> Placed:
        return Placed(record, self.end, len(encode_header(record, self.file.segment_id)))
