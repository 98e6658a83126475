"""Errors in the form that OpenAI clients read."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from baton.errors import BatonError, InvalidRequest, NoWorker, UnknownModel

MAX_SHOWN_LEN = 80

_TYPES = {
    429: "rate_limit_error",
    499: "cancelled",
    503: "service_unavailable",
    504: "timeout",
}


def error_body(error: BatonError) -> dict[str, Any]:
    """`{"error": {...}}` of an error of the table."""
    code = error.status.reason.lower()
    if isinstance(error, UnknownModel):
        code = "model_not_found"
    return plain_body(error.status.http_code, error.message, error.field or None, code)


def plain_body(
    http_code: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """`{"error": {...}}` of anything."""
    kind = "invalid_request_error" if http_code < 500 else "server_error"
    return {
        "error": {
            "message": message,
            "type": _TYPES.get(http_code, kind),
            "param": param,
            "code": code,
        }
    }


def shutting_down() -> NoWorker:
    """What clients learn whose answer is cut off by the end of the server."""
    return NoWorker("This gateway is shutting down.", retry_after_s=1.0)


def error_response(error: BatonError) -> Response:
    """The whole answer to a request that failed before anything was sent."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_s))
        headers["retry-after-ms"] = str(round(error.retry_after_s * 1000))
    return json_response(error_body(error), error.status.http_code, headers)


def json_response(
    body: dict[str, Any], http_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer."""
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(content, http_code, headers, "application/json")


def from_validation(failure: ValidationError) -> InvalidRequest:
    """The first complaint about a body, naming the field and its value."""
    complaint = failure.errors(include_url=False)[0]
    param = _path(complaint["loc"])
    match complaint["type"]:
        case "json_invalid":
            return InvalidRequest(f"The body is not valid JSON: {complaint['ctx']['error']}.")
        case "model_type" | "model_attributes_type" if not param:
            return InvalidRequest("The body must be a JSON object.")
        case "missing":
            return InvalidRequest(f"{param} is missing.", field=param)
    reason = complaint["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return InvalidRequest(f"{param} is {shown(complaint['input'])}; it {reason}.", field=param)


def shown(value: object) -> str:
    """A value from a request, short enough for an error message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN_LEN else text[:MAX_SHOWN_LEN] + "…"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path
