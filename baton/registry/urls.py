"""Which Redis a URL means: one server, or whichever server Sentinel says leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from redis.asyncio.connection import parse_url

SENTINEL_PORT = 26_379
_SENTINEL_SCHEMES = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
_FOR_SENTINEL = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """What a URL says. `options` are for connections to servers."""

    options: dict[str, Any]
    sentinels: tuple[tuple[str, int], ...] = ()
    """Hosts and ports of the sentinels; none: `options` name the server."""
    service: str = ""
    """The name by which the sentinels know the server."""
    sentinel_options: dict[str, Any] | None = None


def parse_redis_url(redis_url: str) -> RedisPlace:
    """Reads `redis://`, `rediss://`, `unix://`, and with `+sentinel` a list of sentinels.

    `redis+sentinel://user:password@host:port,host:port/service/db?options`: name and password are
    the server's; the sentinels' own are `sentinel_username` and `sentinel_password` among the
    options. `rediss+sentinel` speaks TLS with both. Other options are redis-py's, such as
    `ssl_ca_certs`. Raises ValueError for anything else.
    """
    scheme = redis_url.partition("://")[0]
    if scheme not in _SENTINEL_SCHEMES:
        return RedisPlace(dict(parse_url(redis_url)))
    parts = urlsplit(redis_url)
    service, _, db = parts.path.strip("/").partition("/")
    who, _, places = parts.netloc.rpartition("@")
    if not service or not places:
        raise ValueError(
            f"{scheme}:// needs sentinels and a service, as in {scheme}://host:26379/name"
        )
    query = dict(parse_qsl(parts.query))
    own = {name.removeprefix("sentinel_"): query.pop(name) for name in _FOR_SENTINEL & query.keys()}
    plain = _SENTINEL_SCHEMES[scheme]
    rest = f"?{urlencode(query)}" if query else ""
    options = dict(parse_url(f"{plain}://{who}@host/{quote(db or '0')}{rest}"))
    sentinel_options = {name: value for name, value in options.items() if name.startswith("ssl")}
    if plain == "rediss":
        sentinel_options["ssl"] = True
        options["ssl"] = True
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    return RedisPlace(
        options, tuple(map(_place, places.split(","))), unquote(service), sentinel_options | own
    )


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, SENTINEL_PORT
    if not port.isdigit():
        raise ValueError(f"{text!r} is no host:port")
    return host.strip("[]"), int(port)
