"""Reads bodies: JSON within limits, strictly, into the models of `bodies.py`."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from baton.errors import InvalidRequest
from services.gateway.openai.errors import from_validation, shown

ModelT = TypeVar("ModelT", bound=BaseModel)


async def read_body(request: Request, limit: int) -> bytes:
    """The body. One that is too long is refused before it is held in memory."""
    kind = request.headers.get("content-type", "application/json")
    # Other types can be sent by any web page, without asking this server first (CORS).
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, f"content-type is {shown(kind)}; it must be application/json.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_long(f"{int(length):,} bytes", limit)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise _too_long(f"more than {limit:,} bytes", limit)
    return bytes(body)


def parsed(kind: type[ModelT], content: bytes) -> ModelT:
    """A checked body. Raises `InvalidRequest` that names the field and its value."""
    try:
        body = kind.model_validate_json(content)
    except ValidationError as failure:
        raise from_validation(failure) from failure
    # Of a name that comes twice the parser takes one, and a proxy may have looked at the other.
    json.loads(content, object_pairs_hook=_refuse_twins)
    return body


def _refuse_twins(pairs: list[tuple[str, object]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) < len(pairs):
        for name, _ in pairs:
            if name not in names:
                raise InvalidRequest(f"The body has {shown(name)} twice.", field=name[:80])
            names.remove(name)


def _too_long(size: str, limit: int) -> HTTPException:
    return HTTPException(413, f"The body has {size}; at most {limit:,} are allowed.")
