"""What kvstore accepts. Refusals name the field, the value and the limit."""

from __future__ import annotations

from baton.blocks import KEY_BYTES, BlockKey, split_keys
from baton.errors import InvalidRequest

MAX_KEYS = 16_384
"""A context of a million tokens in blocks of 64; 256 KB of keys."""
MAX_PIECE_BYTES = 512 * 1024
"""Keeps a message under one megabyte; larger pieces measured slower and dearer."""
MAX_BLOCK_BYTES = 64 << 20
"""Twice a block of 64 tokens with 128 layers of 8 heads of 128 in float16."""
MAX_NAMESPACE_LEN = 128
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


def check_key(key: bytes) -> BlockKey:
    """The key of a block."""
    if len(key) != KEY_BYTES:
        raise _refusal("key", f"{len(key)} bytes", f"exactly {KEY_BYTES}")
    return BlockKey(key)


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
