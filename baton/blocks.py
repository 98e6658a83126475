"""Blocks: how they lie in an arena and how they are named."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NewType, overload

import xxhash

from baton.tokens import TOKEN_BYTES, TokenIds

BlockKey = NewType("BlockKey", bytes)
"""16 bytes that name a block's tokens and all tokens before them."""

KEY_BYTES = 16
_ONE_KEY = struct.Struct(f"{KEY_BYTES}s")
LAYOUT_VERSION = 1
TENANT_END = "\x1f"
"""Ends a tenant's name in a cache salt. Not printable, so in no name."""
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class KvLayout:
    """How blocks lie: `[num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]`.

    `namespace` is the hexadecimal fingerprint of all that gives a block's bytes their meaning
    besides its tokens: model weights, rope settings and the other fields. Equal namespaces may
    exchange blocks.
    """

    block_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    namespace: str
    version: int = LAYOUT_VERSION

    @property
    def block_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of one block, the same for every block."""
        return (self.num_layers, 2, self.num_kv_heads, self.block_size, self.head_dim)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, one contiguous range."""
        return prod(self.block_shape) * _ITEM_BYTES[self.dtype]

    def num_blocks(self, num_tokens: int) -> int:
        """Blocks that hold this many tokens."""
        return -(-num_tokens // self.block_size)


def make_namespace(model_fingerprint: str, *parts: object) -> str:
    """Fingerprint of a model and all settings that change a block's bytes."""
    text = "\x1f".join([model_fingerprint, *(str(part) for part in parts)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def root_key(namespace: str, cache_salt: str = "") -> bytes:
    """The parent of a sequence's first block: tenants with different salts share no key."""
    return hashlib.blake2b(f"{namespace}\x1f{cache_salt}".encode(), digest_size=32).digest()


def tenant_of(cache_salt: str) -> str:
    """The tenant in front of a cache salt; empty: none."""
    tenant, end, _ = cache_salt.partition(TENANT_END)
    return tenant if end else ""


def chain_keys(
    root: bytes,
    token_ids: Sequence[int],
    block_size: int,
    parents: Sequence[BlockKey] = (),
    limit: int | None = None,
) -> list[BlockKey]:
    """Keys of the full blocks of `token_ids`, continuing behind the `parents` already known.

    No more than the first `limit` blocks, `parents` included. Each key is BLAKE2b-128, keyed by the
    root, over the parent's key and the block's tokens (uint32, little-endian). Returns the keys
    behind `parents` only.
    """
    start = len(parents)
    stop = len(token_ids) // block_size
    if limit is not None:
        stop = min(stop, limit)
    if start >= stop:
        return []
    packed = _packed(token_ids, start * block_size, stop * block_size)
    return _keys_behind(root, parents[-1] if parents else b"", packed, block_size * TOKEN_BYTES)


def _packed(token_ids: Sequence[int], start: int, stop: int) -> bytes:
    if isinstance(token_ids, TokenIds):
        return token_ids.packed[start * TOKEN_BYTES : stop * TOKEN_BYTES]
    return pack_tokens(token_ids[start:stop])


def _keys_behind(root: bytes, parent: bytes, packed: bytes, width: int) -> list[BlockKey]:
    """Keys of blocks of `width` bytes of tokens."""
    # The key is absorbed once; each block goes on from a copy.
    keyed = hashlib.blake2b(digest_size=KEY_BYTES, key=root)
    keys: list[BlockKey] = []
    for at in range(0, len(packed), width):
        digest = keyed.copy()
        digest.update(parent + packed[at : at + width])
        parent = digest.digest()
        keys.append(BlockKey(parent))
    return keys


SPAN = 16
"""Blocks whose keys are remembered together; spans begin at multiples of it."""
_remembered = lru_cache(maxsize=4096)(_keys_behind)
"""Conversations go on, and prompts begin alike. A span is found by all that its keys are made of,
so it is never another's. Of blocks of 16 tokens these are a million tokens, in 9 MB."""


class KeyChain(Sequence[BlockKey]):
    """The keys of a prompt's full blocks, each made when it is first asked for.

    Whoever looks for a cached prefix asks no further than it reaches: of a prompt that nobody
    caches, a few keys are made instead of thousands. What another prompt began with, too, is not
    hashed again.
    """

    STEP = 32
    """Behind those that are asked for so many are made ahead, or as many as there are already."""

    def __init__(self, root: bytes, token_ids: Sequence[int], block_size: int) -> None:
        self._root = root
        self._token_ids = token_ids
        self._block_size = block_size
        self._num_blocks = len(token_ids) // block_size
        self._keys: list[BlockKey] = []

    def __len__(self) -> int:
        return self._num_blocks

    @overload
    def __getitem__(self, index: int) -> BlockKey: ...
    @overload
    def __getitem__(self, index: slice) -> list[BlockKey]: ...
    def __getitem__(self, index: int | slice) -> BlockKey | list[BlockKey]:
        # Counted from the end of the whole chain, not of what is made of it.
        if isinstance(index, slice):
            start, stop, step = index.indices(self._num_blocks)
            if step == 1:
                self._make(stop if start < stop else 0)
                return self._keys[start:stop]
            return [self[place] for place in range(start, stop, step)]
        place = range(self._num_blocks)[index]
        self._make(place + 1)
        return self._keys[place]

    def _make(self, count: int) -> None:
        num_made = len(self._keys)
        if count <= num_made:
            return
        limit = min(max(count, num_made + min(num_made, self.STEP)), self._num_blocks)
        if limit >= num_made + SPAN:
            self._hash(-(-num_made // SPAN) * SPAN)
            while len(self._keys) + SPAN <= limit:
                self._recall()
        self._hash(limit)

    def _hash(self, limit: int) -> None:
        self._keys += chain_keys(self._root, self._token_ids, self._block_size, self._keys, limit)

    def _recall(self) -> None:
        """Adds the keys of the next span."""
        start, size = len(self._keys), self._block_size
        parent = self._keys[-1] if start else b""
        packed = _packed(self._token_ids, start * size, (start + SPAN) * size)
        self._keys += _remembered(self._root, parent, packed, size * TOKEN_BYTES)


def split_keys(joined: bytes) -> list[BlockKey]:
    """Keys from their wire form, one behind the other."""
    if len(joined) % KEY_BYTES:
        raise ValueError(f"{len(joined)} bytes are not a whole number of {KEY_BYTES}-byte keys")
    return [BlockKey(key) for (key,) in _ONE_KEY.iter_unpack(joined)]


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    """Token ids in their wire form: little-endian uint32."""
    return TokenIds.of(token_ids).packed


def unpack_tokens(packed: bytes) -> list[int]:
    """Token ids from their wire form."""
    return list(TokenIds(packed))


def checksum(data: bytes | bytearray | memoryview) -> int:
    """XXH3-64 of a block's bytes."""
    return xxhash.xxh3_64_intdigest(data)
