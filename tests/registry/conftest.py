"""A real Redis, shared by a module's tests or owned by one that kills it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from registry_world import World, make_world

from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys


@pytest.fixture(scope="module")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A server that the module's tests share; they keep apart by their prefixes."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """A server that a test may kill."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def keys(request: pytest.FixtureRequest) -> Keys:
    """A prefix of the test's own."""
    return Keys(prefix=f"{request.node.name}:")


@pytest.fixture
async def world(redis_server: EmbeddedRedis, keys: Keys) -> AsyncIterator[World]:
    """Workers and watchers around the shared server."""
    async with make_world(redis_server.url, keys) as made:
        yield made


@pytest.fixture
async def frail_world(own_redis: EmbeddedRedis, keys: Keys) -> AsyncIterator[World]:
    """Workers and watchers around a server that the test may kill."""
    async with make_world(own_redis.url, keys) as made:
        yield made
