"""What every answer has in common: a request id, and a place in the metrics."""

from __future__ import annotations

import asyncio
import secrets

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from baton.rpc.metrics import counter
from services.gateway.openai.errors import error_response, shutting_down
from services.gateway.validation import MAX_REQUEST_ID_LEN

_SCOPE_KEY = "baton.request_id"

# By fixed names, since a path that a client made up must not become a label.
_ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics")

answers = counter("gateway_http_answers", "HTTP answers begun.", ("route", "status"))


def request_id_of(scope: Scope) -> str:
    """The id that the client sent in `x-request-id`, or one made for it."""
    return str(scope[_SCOPE_KEY])


class Envelope:
    """Gives requests their ids, sends them back, and counts answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not request_id.isprintable() or not request_id:
            request_id = secrets.token_hex(16)
        scope[_SCOPE_KEY] = request_id
        # One that is too long is refused where its length is checked.
        echoed = request_id.encode("latin-1")[:MAX_REQUEST_ID_LEN]

        is_begun = False

        async def sealed(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                answers.labels(_route(scope["path"]), message["status"]).inc()
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", echoed)]
            await send(message)

        try:
            await self._app(scope, receive, sealed)
        except asyncio.CancelledError:
            # Only a server that stops cancels; answers under way have ended by themselves.
            if not is_begun:
                await error_response(shutting_down())(scope, receive, sealed)


def _route(path: str) -> str:
    if path in _ROUTES:
        return path
    return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"
