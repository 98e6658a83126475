"""Reads bodies: JSON within limits, strictly, into the models of `bodies.py`."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import jiter
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from baton.errors import InvalidRequest
from services.gateway.openai.envelope import headers_of
from services.gateway.openai.errors import from_validation, shown

ModelT = TypeVar("ModelT", bound=BaseModel)
QUICK_BODY_BYTES = 128 << 10
"""Longer ones are read in a thread: two milliseconds are enough to be noticed by other streams."""

_TWIN = re.compile(r'Detected duplicate key "(.*)" at line', re.DOTALL)


async def read_body(request: Request, limit: int) -> bytes:
    """The body. One that is too long is refused before it is held in memory."""
    headers = headers_of(request.scope)
    kind = headers.get("content-type", "application/json")
    # Other types can be sent by any web page, without asking this server first (CORS).
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, f"content-type is {shown(kind)}; it must be application/json.")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_long(f"{int(length):,} bytes", limit)
    # As `Request.stream`, less two generators: nearly all bodies come in one message.
    parts, num_bytes, is_whole = [], 0, False
    while not is_whole:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        num_bytes += len(parts[-1])
        if num_bytes > limit:
            raise _too_long(f"more than {limit:,} bytes", limit)
        is_whole = not message.get("more_body", False)
    return b"".join(parts)


async def parsed(kind: type[ModelT], content: bytes) -> ModelT:
    """A checked body. Raises `InvalidRequest` that names the field and its value."""
    if len(content) > QUICK_BODY_BYTES:
        return await asyncio.to_thread(_parsed, kind, content)
    return _parsed(kind, content)


def _parsed(kind: type[ModelT], content: bytes) -> ModelT:
    try:
        # Of a name that comes twice a parser takes one, and a proxy may have looked at the other.
        value = jiter.from_json(content, catch_duplicate_keys=True)
    except ValueError as failure:
        raise _not_json(str(failure)) from failure
    try:
        return kind.model_validate(value)
    except ValidationError as failure:
        raise from_validation(failure) from failure


def _not_json(complaint: str) -> InvalidRequest:
    if twin := _TWIN.match(complaint):
        return InvalidRequest(f"The body has {shown(twin[1])} twice.", field=twin[1][:80])
    return InvalidRequest(f"The body is not valid JSON: {complaint}.")


def _too_long(size: str, limit: int) -> HTTPException:
    return HTTPException(413, f"The body has {size}; at most {limit:,} are allowed.")
