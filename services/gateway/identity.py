"""What follows from whom a request is for and what it is called: its cache salt, its seed."""

from __future__ import annotations

import hashlib
import random

from baton.blocks import TENANT_END

SEED_BITS = 53
"""So that every JSON reader can send a seed back unchanged."""


_draw = random.Random()  # seeded by the system, in each process anew


def new_request_id() -> str:
    """128 random bits, hexadecimal: unique, which is all that an id must be, and no secret."""
    return f"{_draw.getrandbits(128):032x}"


def new_seed() -> int:
    """A seed for a request that names none."""
    return _draw.getrandbits(SEED_BITS)


def api_key(authorization: str) -> str:
    """The key in an `Authorization` header; empty when it holds none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def cache_salt(tenant: str, salt: str) -> str:
    """One salt of both; no two pairs give the same, and without a tenant it is the salt."""
    if tenant:
        return f"{tenant}{TENANT_END}{salt}"
    # One that could be taken for a tenant's is moved to where no tenant's begins.
    return f"{TENANT_END}{salt}" if TENANT_END in salt else salt


def seed(tenant: str, retry_key: str) -> int:
    """The same on every gateway: the low 53 bits of BLAKE2b-64 over tenant, 0x1F, key."""
    text = f"{tenant}{TENANT_END}{retry_key}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return int.from_bytes(digest, "big") & ((1 << SEED_BITS) - 1)
