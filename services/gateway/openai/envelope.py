"""What every answer has in common: a request id, and a place in the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from baton.errors import EngineFailed
from baton.rpc import logs
from baton.rpc.metrics import counter
from baton.rpc.telemetry import Span, start_span
from services.gateway import identity
from services.gateway.openai.errors import error_response, shutting_down
from services.gateway.validation import MAX_REQUEST_ID_LEN

_SCOPE_KEY = "baton.request_id"
_TRACE_KEY = "baton.traceparent"
_SEND_KEY = "baton.send"
_HEADERS_KEY = "baton.headers"

# By fixed names, since a path that a client made up must not become a label.
_ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/models",
    "/tokenize",
    "/detokenize",
    "/openapi.json",
    "/health",
    "/metrics",
)
MAX_PATH_LEN = 256

log = logs.get_logger(__name__)
answers = counter("gateway_http_answers", "HTTP answers begun.", ("route", "status"))


def request_id_of(scope: Scope) -> str:
    """The id that the client sent in `x-request-id`, or one made for it."""
    return str(scope[_SCOPE_KEY])


def traceparent_of(scope: Scope) -> str:
    """The request's place in a trace; empty: it is not traced."""
    return str(scope[_TRACE_KEY])


def headers_of(scope: Scope) -> Mapping[str, str]:
    """The request's headers by lower-case name; of one that comes twice, the first."""
    headers: Mapping[str, str] | None = scope.get(_HEADERS_KEY)
    if headers is None:
        pairs = reversed(scope["headers"])
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
        scope[_HEADERS_KEY] = headers
    return headers


def short_way(scope: Scope, send: Send) -> Send:
    """For the parts of a body that has begun: past everything that only looks at heads.

    A part costs each layer of middleware a coroutine, and there is a part per token.
    """
    direct: Send = scope.get(_SEND_KEY, send)
    return direct


class Envelope:
    """Gives requests their ids and traces, names both in answers, and counts answers.

    POSTs to the paths of `short` go there, all others to `app`. While `is_leaving`, each answer is
    its connection's last: the client's next one goes elsewhere.
    """

    def __init__(
        self, app: ASGIApp, short: Mapping[str, ASGIApp], is_leaving: Callable[[], bool]
    ) -> None:
        self._app = app
        self._short = short
        self._is_leaving = is_leaving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        request_id = headers.get("x-request-id", "")
        if not request_id.isprintable() or not request_id:
            request_id = identity.new_request_id()
        scope[_SCOPE_KEY] = request_id
        scope[_SEND_KEY] = send
        # One that is too long is refused where its length is checked.
        echoed = request_id.encode("latin-1")[:MAX_REQUEST_ID_LEN]

        span = _span(scope["path"], headers.get("traceparent"))
        scope[_TRACE_KEY] = span.traceparent
        own = [(b"x-request-id", echoed)]
        if span.traceparent:
            own.append((b"traceparent", span.traceparent.encode()))
        is_begun = False

        async def sealed(message: Message) -> None:
            nonlocal is_begun
            if message["type"] != "http.response.start":
                await send(message)
                return
            is_begun = True
            if self._is_leaving():
                own.append((b"connection", b"close"))
            message["headers"] = [*message.get("headers", ()), *own]
            await send(message)
            # Counted when it is on its way.
            counter = _answers(_route(scope["path"]), message["status"])
            asyncio.get_running_loop().call_soon(counter.inc)

        try:
            is_post = scope["method"] == "POST"
            app = self._short.get(scope["path"], self._app) if is_post else self._app
            await app(scope, receive, sealed)
        except asyncio.CancelledError:
            # Only a server that stops cancels; answers under way have ended by themselves.
            if not is_begun:
                await error_response(shutting_down())(scope, receive, sealed)
        except Exception as defect:
            log.error("http request failed", request_id=request_id, exc_info=defect)
            if not is_begun:
                error = EngineFailed("The request failed: an internal error.")
                await error_response(error)(scope, receive, sealed)
        finally:
            span.end()


@cache
def _answers(route: str, status: int) -> Counter:
    """A label's look-up costs more than its count."""
    return answers.labels(route, status)


def _span(path: str, parent: str | None) -> Span:
    # Probes and scrapes are no part of any trace.
    if not path.startswith("/v1/"):
        return Span()
    span = start_span("gateway.http", parent, kind="server")
    span.set("url.path", path[:MAX_PATH_LEN])
    return span


def _route(path: str) -> str:
    if path in _ROUTES:
        return path
    return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"
