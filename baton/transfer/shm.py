"""Memory that several processes of one host map: an arena's bytes, and the proof of who lives.

A segment is a file in the host's shared-memory file system. Its owner holds an exclusive lock on it
for as long as it runs: the kernel gives the lock back when the owner dies, however it dies. So
anyone can tell a dead owner (whose bytes are quiet) from a slow one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
from pathlib import Path

import numpy as np

Buffer = bytes | bytearray | memoryview
SHM_FOLDER = Path("/dev/shm")
PREFIX = "baton-"
HEADER_BYTES = 4096
"""One page: the blocks behind it stay page-aligned."""
NONCE_BYTES = 16


class SharedSegment:
    """A mapped segment: 16 random bytes, padding to a page, then the arena."""

    def __init__(
        self,
        name: str,
        descriptor: int,
        num_bytes: int,
        *,
        owned: bool,
        access: int = mmap.ACCESS_WRITE,
    ) -> None:
        self.name = name
        self.num_bytes = num_bytes
        self._descriptor = descriptor
        self._owned = owned
        self._map = mmap.mmap(descriptor, HEADER_BYTES + num_bytes, access=access)
        self.buffer = memoryview(self._map)[HEADER_BYTES:]

    @property
    def nonce(self) -> bytes:
        """The random bytes at the segment's start."""
        return self._map[:NONCE_BYTES]

    @classmethod
    def create(cls, num_bytes: int, *, backed: bool = True) -> SharedSegment:
        """Makes, locks and maps a segment. Raises `OSError` where the host has no room for it.

        The pages are allocated at once: writing into one that has no room would kill the process.
        Not so if not `backed`: then the owner calls `back` before it writes anywhere.
        """
        name = f"{PREFIX}{secrets.token_hex(8)}"
        # It takes its name when it is locked and whole: nobody sweeps or maps a half-made one.
        draft = SHM_FOLDER / f".{name}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(descriptor, 0, HEADER_BYTES + (num_bytes if backed else 0))
            os.ftruncate(descriptor, HEADER_BYTES + num_bytes)
            os.pwrite(descriptor, secrets.token_bytes(NONCE_BYTES), 0)
            segment = cls(name, descriptor, num_bytes, owned=True)
            draft.rename(SHM_FOLDER / name)
        except OSError:
            draft.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return segment

    @classmethod
    def open(
        cls, name: str, nonce: bytes, num_bytes: int, *, writable: bool = True
    ) -> SharedSegment:
        """Maps a peer's segment. Raises `OSError` where it isn't the same memory."""
        if not _is_segment_name(name):
            raise OSError(f"{name!r} is not the name of a segment")
        mode = os.O_RDWR if writable else os.O_RDONLY
        descriptor = os.open(SHM_FOLDER / name, mode | os.O_CLOEXEC)
        try:
            if os.pread(descriptor, NONCE_BYTES, 0) != nonce:
                raise OSError(f"segment {name} holds another nonce: it is other memory")
            found = os.fstat(descriptor).st_size - HEADER_BYTES
            if found < num_bytes:
                raise OSError(f"segment {name} has {found} bytes, {num_bytes} were expected")
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            return cls(name, descriptor, num_bytes, owned=False, access=access)
        except OSError:
            os.close(descriptor)
            raise

    def back(self, offset: int, num_bytes: int) -> bool:
        """Allocates the pages of a range behind the header; False where the host has no room."""
        try:
            os.posix_fallocate(self._descriptor, HEADER_BYTES + offset, num_bytes)
        except OSError:
            return False
        return True

    def offset_of(self, data: Buffer) -> int | None:
        """Where bytes lie in the segment behind its header; None: they lie elsewhere."""
        start = _address(data) - _address(self.buffer)
        return start if 0 <= start <= self.num_bytes - len(data) else None

    async def remove(self) -> None:
        """As `close`, for a process's list of things to do when it stops."""
        self.close()

    def close(self) -> None:
        """Lets the descriptor and the lock go; tensors may still look at the mapping."""
        if self._owned:
            (SHM_FOLDER / self.name).unlink(missing_ok=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _address(data: Buffer) -> int:
    place: int = np.frombuffer(data, dtype=np.uint8).__array_interface__["data"][0]
    return place


def owner_is_dead(name: str) -> bool:
    """Whether nobody holds the segment any more, so that its owner writes nowhere."""
    if not _is_segment_name(name):
        return False
    try:
        descriptor = os.open(SHM_FOLDER / name, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def free_bytes() -> int:
    """Room in the host's shared-memory file system, as far as this process sees it."""
    try:
        found = os.statvfs(SHM_FOLDER)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def sweep_dead_segments() -> int:
    """Removes what killed owners left behind; returns how many segments that were."""
    swept = 0
    for path in SHM_FOLDER.glob(f"{PREFIX}*"):
        try:
            if owner_is_dead(path.name):
                path.unlink(missing_ok=True)
                swept += 1
        except PermissionError:
            continue
    return swept


def _is_segment_name(name: str) -> bool:
    tail = name.removeprefix(PREFIX)
    return (
        name.startswith(PREFIX) and len(tail) == 16 and all(c in "0123456789abcdef" for c in tail)
    )
