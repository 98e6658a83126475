"""What kvstore accepts. Refusals name the field, the value and the limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from baton.blocks import KEY_BYTES, BlockKey, split_keys
from baton.errors import InvalidRequest

MAX_KEYS = 16_384
"""A context of a million tokens in blocks of 64; 256 KB of keys."""
MAX_PIECE_BYTES = 512 * 1024
"""Keeps a message under one megabyte; larger pieces measured slower and dearer."""
MAX_BLOCK_BYTES = 64 << 20
"""Twice a block of 64 tokens with 128 layers of 8 heads of 128 in float16."""
MAX_NAMESPACE_LEN = 128
MAX_TENANT_LEN = 128
MAX_SHARED_BLOCKS = 1024
"""In one PutShared; its caller keeps them pinned meanwhile."""
MAX_LEASED_BLOCKS = 1024
"""In one lease: what a reader copies in well under a lease's life."""
LEASE_S = 5.0
"""Life of a lease: a copy of a gigabyte takes a quarter of it on the slowest machine measured."""
MAX_LEASED_SHARE = 0.5
"""Of the memory: leased blocks can't make room."""
NO_KEY = bytes(KEY_BYTES)
MAX_CALL_S = 60.0
"""Longest life of a call, whatever its client says."""
MAX_PUTS = 64
MAX_GETS = 128
"""Calls of a kind at a time; each holds a block and about a megabyte of messages on top."""


def check_keys(joined: bytes) -> list[BlockKey]:
    """The keys of a request."""
    if len(joined) > MAX_KEYS * KEY_BYTES:
        raise _refusal("keys", f"{len(joined)} bytes", f"at most {MAX_KEYS} keys")
    if len(joined) % KEY_BYTES:
        raise _refusal("keys", f"{len(joined)} bytes", f"{KEY_BYTES} bytes a key")
    return split_keys(joined)


@dataclass(slots=True)  # frozen ones take three times as long to make
class SharedBlock:
    """A block in the caller's memory."""

    key: BlockKey
    parent: bytes
    offset: int
    checksum: int


def check_shared_put(request: Any) -> list[SharedBlock]:
    """The blocks of a PutShared, each within the caller's memory."""
    keys = check_keys(request.keys)
    check_namespace(request.namespace)
    check_tenant(request.tenant)
    size = check_size(request.size_bytes)
    if len(keys) > MAX_SHARED_BLOCKS:
        raise _refusal("keys", f"{len(keys)} keys", f"at most {MAX_SHARED_BLOCKS}")
    for name, length, unit in (
        ("parents", len(request.parents), KEY_BYTES),
        ("offsets", len(request.offsets), 1),
        ("checksums", len(request.checksums), 1),
    ):
        if length != unit * len(keys):
            raise _refusal(name, f"{length // unit} long", f"as many as keys, {len(keys)}")
    room = request.memory.size_bytes - size
    last = max(request.offsets, default=0)
    if last > room:
        raise _refusal("offsets", str(last), f"at most {max(0, room)}")
    parents = (key if key != NO_KEY else b"" for key in split_keys(request.parents))
    return [
        SharedBlock(*each)
        for each in zip(keys, parents, request.offsets, request.checksums, strict=True)
    ]


def check_key(key: bytes) -> BlockKey:
    """The key of a block."""
    if len(key) != KEY_BYTES:
        raise _refusal("key", f"{len(key)} bytes", f"exactly {KEY_BYTES}")
    return BlockKey(key)


def check_parent(parent: bytes) -> bytes:
    """The key of a block's parent, or nothing."""
    if len(parent) not in (0, KEY_BYTES):
        raise _refusal("parent", f"{len(parent)} bytes", f"{KEY_BYTES} or none")
    return parent


def check_tenant(tenant: str) -> str:
    """Whose quota a block counts against."""
    if len(tenant) > MAX_TENANT_LEN:
        raise _refusal("tenant", f"{len(tenant)} characters", f"at most {MAX_TENANT_LEN}")
    return tenant


def check_namespace(namespace: str) -> str:
    """The namespace of a block."""
    if not 0 < len(namespace) <= MAX_NAMESPACE_LEN:
        raise _refusal("namespace", f"{len(namespace)} characters", f"1 to {MAX_NAMESPACE_LEN}")
    return namespace


def check_size(size_bytes: int) -> int:
    """The size of a block."""
    if not 0 < size_bytes <= MAX_BLOCK_BYTES:
        raise _refusal("size_bytes", str(size_bytes), f"1 to {MAX_BLOCK_BYTES}")
    return size_bytes


def check_piece(offset: int, data: bytes, *, expected_offset: int, size_bytes: int) -> None:
    """Where a piece of a block goes and how large it is."""
    if offset != expected_offset:
        raise _refusal("offset_bytes", str(offset), f"{expected_offset}, pieces come in order")
    room = min(MAX_PIECE_BYTES, size_bytes - offset)
    if not 0 < len(data) <= room:
        raise _refusal("data", f"{len(data)} bytes", f"1 to {room}")


def _refusal(field: str, value: str, limit: str) -> InvalidRequest:
    return InvalidRequest(f"{field} is {value}; allowed: {limit}", field=field)
