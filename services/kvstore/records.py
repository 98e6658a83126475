"""How blocks lie in a segment file: headers that prove themselves, and the seal at the end.

A record is a header, the block's bytes, and zeros to a multiple of 64 bytes. The header names the
segment it was written for, so that bytes of an earlier life of the disk are never taken for a
record. A sealed segment repeats all headers, with their places, at its end: a start reads those and
nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from baton.blocks import KEY_BYTES, BlockKey

ALIGNMENT = 64
_MAGIC = b"BKV1"
# magic, bytes of namespace and tenant, size, segment, key, parent, checksum of the data
_HEADER = struct.Struct(f"<4sHHIQ{KEY_BYTES}s{KEY_BYTES}sQ")
_SUM = struct.Struct("<Q")
_FIXED_BYTES = _HEADER.size + _SUM.size
_PLACE = struct.Struct("<Q")
_SEAL_MAGIC = b"BKVSEAL1"
# magic, segment, where the index begins, its length, its checksum
_SEAL = struct.Struct("<8sQQQQ")
SEAL_BYTES = _SEAL.size + _SUM.size
_NO_PARENT = bytes(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class Record:
    """What a header says."""

    key: BlockKey
    namespace: str
    size_bytes: int
    checksum: int
    """XXH3-64 of the block's bytes."""
    parent: BlockKey | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and where its parts are in the segment."""

    record: Record
    offset: int
    header_len: int

    @property
    def data_offset(self) -> int:
        """Where the block's bytes begin."""
        return self.offset + self.header_len

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.data_offset + aligned(self.record.size_bytes)

    @property
    def index_bytes(self) -> int:
        """What it takes in the segment's index."""
        return _PLACE.size + self.header_len


def aligned(num_bytes: int) -> int:
    """Rounded up to where something may begin."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def encode_header(record: Record, segment_id: int) -> bytes:
    """The header, its own checksum included, padded."""
    namespace, tenant = record.namespace.encode(), record.tenant.encode()
    fixed = _HEADER.pack(
        _MAGIC,
        len(namespace),
        len(tenant),
        record.size_bytes,
        segment_id,
        record.key,
        record.parent or _NO_PARENT,
        record.checksum,
    )
    names = namespace + tenant
    header = fixed + _SUM.pack(xxhash.xxh3_64_intdigest(fixed + names)) + names
    return header.ljust(aligned(len(header)), b"\0")


def decode_header(data: bytes | memoryview, segment_id: int) -> tuple[Record, int] | None:
    """The record whose header begins `data`, and the header's length; None where there is none."""
    if len(data) < _FIXED_BYTES:
        return None
    magic, namespace_len, tenant_len, size, segment, key, parent, total = _HEADER.unpack_from(data)
    if magic != _MAGIC or segment != segment_id:
        return None
    names = bytes(data[_FIXED_BYTES : _FIXED_BYTES + namespace_len + tenant_len])
    if len(names) < namespace_len + tenant_len:
        return None
    (expected,) = _SUM.unpack_from(data, _HEADER.size)
    if xxhash.xxh3_64_intdigest(bytes(data[: _HEADER.size]) + names) != expected:
        return None
    record = Record(
        BlockKey(key),
        names[:namespace_len].decode(),
        size,
        total,
        BlockKey(parent) if parent != _NO_PARENT else None,
        names[namespace_len:].decode(),
    )
    return record, aligned(_FIXED_BYTES + len(names))


def encode_seal(segment_id: int, placed: list[Placed], segment_bytes: int) -> tuple[int, bytes]:
    """The index of a segment and its seal, and where they go: they end where the segment ends."""
    index = b"".join(
        _PLACE.pack(each.offset) + encode_header(each.record, segment_id) for each in placed
    )
    begin = segment_bytes - SEAL_BYTES - len(index)
    total = xxhash.xxh3_64_intdigest(index)
    seal = _SEAL.pack(_SEAL_MAGIC, segment_id, begin, len(index), total)
    return begin, index + seal + _SUM.pack(xxhash.xxh3_64_intdigest(seal))


def decode_seal(seal: bytes, segment_id: int) -> tuple[int, int, int] | None:
    """Where the index begins, its length and its checksum, from the last bytes of a segment."""
    if len(seal) != SEAL_BYTES:
        return None
    magic, segment, begin, length, total = _SEAL.unpack_from(seal)
    (expected,) = _SUM.unpack_from(seal, _SEAL.size)
    is_right = xxhash.xxh3_64_intdigest(seal[: _SEAL.size]) == expected
    if magic != _SEAL_MAGIC or segment != segment_id or not is_right:
        return None
    return begin, length, total


def decode_index(index: bytes, segment_id: int, total: int) -> list[Placed] | None:
    """All records of a sealed segment; None where the index is not as it was written."""
    if xxhash.xxh3_64_intdigest(index) != total:
        return None
    return list(_index_entries(index, segment_id))


def _index_entries(index: bytes, segment_id: int) -> Iterator[Placed]:
    view = memoryview(index)
    at = 0
    while at < len(view):
        (offset,) = _PLACE.unpack_from(view, at)
        found = decode_header(view[at + _PLACE.size :], segment_id)
        if found is None:
            return
        record, header_len = found
        yield Placed(record, offset, header_len)
        at += _PLACE.size + header_len
