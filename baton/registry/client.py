"""The part of a Redis client that the registry uses, with the types its replies really have."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from baton.registry.timing import Timing
from baton.registry.urls import parse_redis_url

FAILURES = (RedisError, OSError, TimeoutError)
"""What Redis being away, or refusing, looks like."""

Value = str | bytes | int | float
Entry = tuple[bytes, dict[bytes, bytes]]
"""A stream entry: its id and its fields."""


class Pipe(Protocol):
    """Commands that travel together; each method appends one."""

    def delete(self, *names: str) -> object: ...
    def get(self, name: str) -> object: ...
    def set(
        self, name: str, value: Value, *, px: int | None = None, nx: bool = False
    ) -> object: ...
    def pexpire(self, name: str, time: int) -> object: ...
    def hgetall(self, name: str) -> object: ...
    def hset(self, name: str, *, mapping: Mapping[str, Value]) -> object: ...
    def zadd(self, name: str, mapping: Mapping[str, float]) -> object: ...
    def zrange(self, name: str, start: int, end: int) -> object: ...
    def zrem(self, name: str, *values: str) -> object: ...
    def zremrangebyscore(self, name: str, min: str, max: float) -> object: ...
    def xadd(
        self, name: str, fields: Mapping[str, Value], *, maxlen: int, approximate: bool
    ) -> object: ...
    def eval(self, script: str, numkeys: int, *keys_and_args: str) -> object: ...
    async def execute(self) -> list[Any]: ...


class Client(Protocol):
    """Commands that travel alone."""

    def pipeline(self, transaction: bool) -> Pipe: ...
    async def hget(self, name: str, key: str) -> bytes | None: ...
    async def zrange(self, name: str, start: int, end: int) -> list[bytes]: ...
    async def xrevrange(self, name: str, *, count: int) -> list[Entry]: ...
    async def xread(
        self, streams: Mapping[bytes, bytes], *, count: int, block: int
    ) -> list[tuple[bytes, list[Entry]]]: ...
    async def aclose(self) -> None: ...


def connect(redis_url: str, timing: Timing) -> Client:
    """A client that never retries by itself: outages are the caller's to see.

    RESP2 on purpose: RESP3 changes the shape of replies (XREAD, for one), and nothing here needs
    push messages. Replies are awaited without a limit, callers bring their own: with a
    `socket_timeout` redis-py sends through `asyncio.wait_for`, which in Python 3.11 may swallow
    a cancellation. Raises ValueError for a URL that `parse_redis_url` refuses.
    """
    place = parse_redis_url(redis_url)
    options: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": timing.reply_timeout_s,
    }
    if not place.sentinels:
        return cast(Client, Redis.from_url(redis_url, **options))
    # Sentinels are asked at each new connection: they answer within the time of a reply.
    asked = (
        options | {"socket_timeout": timing.reply_timeout_s / 2} | (place.sentinel_options or {})
    )
    sentinel = Sentinel(place.sentinels, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
    made = sentinel.master_for(place.service, redis_class=_Led, **options, **place.options)
    return cast(Client, made)


class _Led(Redis):
    """A client of whichever server leads. With it end its connections to sentinels, which redis-py
    leaves open.
    """

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes all of them, whatever state they are in."""
        sentinels = cast(SentinelConnectionPool, self.connection_pool).sentinel_manager.sentinels
        try:
            await super().aclose(close_connection_pool)
        finally:
            for client in sentinels:
                await close(client)


async def close(client: Client) -> None:
    """Closes a client, whatever state its connection is in."""
    with contextlib.suppress(*FAILURES):
        await client.aclose()


def milliseconds(seconds: float) -> int:
    """A duration as Redis takes it; at least 1."""
    return max(1, round(seconds * 1000))
