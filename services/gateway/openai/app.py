"""The Starlette application: routes, limits, and errors in OpenAI's form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from baton.errors import AlreadyRunning, BatonError, EngineFailed, UnknownModel
from baton.rpc import metrics
from baton.text import ModelText
from services.gateway import identity
from services.gateway.openai.answer import Answer
from services.gateway.openai.calls import RETRY_HEADER, Call, Caller, Resolver, slo_of
from services.gateway.openai.envelope import Envelope, headers_of, request_id_of, traceparent_of
from services.gateway.openai.errors import error_response, json_response, plain_body
from services.gateway.openai.openapi import openapi
from services.gateway.openai.reading import read_body
from services.gateway.openai.replies import AUTO, ReplySettings
from services.gateway.openai.response_writers import ResponseWriter
from services.gateway.openai.shapes import ChatShape, CompletionShape, Shape
from services.gateway.openai.tokens import detokenize, tokenize
from services.gateway.openai.writers import EventWriter, WholeWriter
from services.gateway.types import Gateway, ModelInfo

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What a client may ask of the door, and how the door behaves."""

    max_body_bytes: int = 8 << 20
    max_timeout_s: float = 600.0
    keepalive_s: float = 15.0
    """A stream that is silent for so long gets a comment; 0: never."""
    cors_origins: tuple[str, ...] = ()
    """Web pages of these may use the door; `*`: of any; empty: of none."""
    replies: ReplySettings = AUTO


def app(
    gateway: Gateway,
    limits: HttpLimits | None = None,
    is_draining: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The whole door; `is_draining` turns `/health` to 503 and ends connections with answers."""
    limits = limits or HttpLimits()
    door = _Door(gateway, limits, is_draining)
    generating: dict[str, Endpoint] = {
        "/v1/chat/completions": door.chat,
        "/v1/completions": door.completion,
        "/v1/responses": door.response,
    }
    http = Starlette(
        routes=[
            *(Route(path, call, methods=["POST"]) for path, call in generating.items()),
            Route("/tokenize", door.tokenize, methods=["POST"]),
            Route("/detokenize", door.detokenize, methods=["POST"]),
            Route("/v1/models", door.models),
            Route("/v1/models/{model:path}", door.model),
            Route("/openapi.json", _described),
            Route("/health", door.health),
            Route("/metrics", _metrics),
        ],
        exception_handlers={**_HANDLERS, Exception: _on_defect},
    )
    # A redirection would be made of the Host header, and POST clients do not follow it.
    http.router.redirect_slashes = False
    short = {path: _direct(endpoint) for path, endpoint in generating.items()}
    return _cors(Envelope(http, short, is_draining), limits.cors_origins)


def _direct(endpoint: Endpoint) -> ASGIApp:
    """What Starlette's router and middleware do for an endpoint, without their eight coroutines."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
            await response(scope, receive, send)
        except tuple(_HANDLERS) as error:
            # `Answer` raises before its first byte only.
            handle = next(handle for kind, handle in _HANDLERS.items() if isinstance(error, kind))
            await (await handle(request, error))(scope, receive, send)

    return run


def _cors(door: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Outermost, since errors need its headers too."""
    if not origins:
        return door
    return CORSMiddleware(
        door,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=("x-request-id", "traceparent", "retry-after", "retry-after-ms"),
    )


class _Door:
    """The endpoints: read, check, answer."""

    def __init__(
        self, gateway: Gateway, limits: HttpLimits, is_draining: Callable[[], bool]
    ) -> None:
        self._gateway = gateway
        self._limits = limits
        self._is_draining = is_draining
        self._resolver = Resolver(gateway, limits.max_timeout_s, limits.replies)

    async def chat(self, request: Request) -> Response:
        body = await read_body(request, self._limits.max_body_bytes)
        call = await self._resolver.chat(body, _caller(request))
        return self._answer(call, ChatShape)

    async def completion(self, request: Request) -> Response:
        body = await read_body(request, self._limits.max_body_bytes)
        call = await self._resolver.completion(body, _caller(request))
        return self._answer(call, CompletionShape)

    async def response(self, request: Request) -> Response:
        content = await read_body(request, self._limits.max_body_bytes)
        body, call = await self._resolver.response(content, _caller(request))
        new_writer = partial(ResponseWriter, body, call.commands[0])
        return Answer(self._gateway, call, new_writer, new_writer, self._limits.keepalive_s)

    async def tokenize(self, request: Request) -> Response:
        content = await read_body(request, self._limits.max_body_bytes)
        return json_response(await tokenize(self._gateway, content))

    async def detokenize(self, request: Request) -> Response:
        content = await read_body(request, self._limits.max_body_bytes)
        return json_response(await detokenize(self._gateway, content))

    def _answer(self, call: Call, new_shape: Callable[[ModelText], Shape]) -> Answer:
        new_events = partial(_events, new_shape, call)
        new_whole = partial(_whole, new_shape, call)
        return Answer(self._gateway, call, new_events, new_whole, self._limits.keepalive_s)

    async def models(self, _: Request) -> Response:
        models = [_model_body(model) for model in self._gateway.models()]
        return json_response({"object": "list", "data": models})

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        for model in self._gateway.models():
            if model.name == name:
                return json_response(_model_body(model))
        served = ", ".join(model.name for model in self._gateway.models()) or "none"
        raise UnknownModel(f"model {name!r} is not served; served: {served}.", field="model")

    async def health(self, _: Request) -> Response:
        models = [model.name for model in self._gateway.models()]
        if self._is_draining():
            return json_response({"status": "unavailable", "reason": "shutting down"}, 503)
        if not models:
            reason = "no live decode worker serves a model"
            return json_response({"status": "unavailable", "reason": reason}, 503)
        # Redis away is no illness: requests go on with what is known, as old as this says.
        age_s = round(self._gateway.staleness_s, 3)
        return json_response(
            {"status": "ok", "models": models, "registry_staleness_seconds": age_s}
        )


def _events(new_shape: Callable[[ModelText], Shape], call: Call) -> EventWriter:
    first = call.commands[0]
    return EventWriter(new_shape(call.text), first.request_id, first.model, call.includes_usage)


def _whole(new_shape: Callable[[ModelText], Shape], call: Call) -> WholeWriter:
    first = call.commands[0]
    return WholeWriter(new_shape(call.text), first.request_id, first.model)


async def _described(_: Request) -> Response:
    return json_response(openapi())


async def _metrics(_: Request) -> Response:
    return Response(metrics.render(), media_type=metrics.CONTENT_TYPE)


def _model_body(model: ModelInfo) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "baton",
        # Not OpenAI's; the name under which clients of other servers look for it.
        "max_model_len": model.context_len,
    }


def _caller(request: Request) -> Caller:
    headers = headers_of(request.scope)
    return Caller(
        request_id=request_id_of(request.scope),
        traceparent=traceparent_of(request.scope),
        tenant=headers.get("x-baton-tenant", ""),
        retry_key=headers.get(RETRY_HEADER.lower(), ""),
        slo=slo_of(headers),
        api_key=identity.api_key(headers.get("authorization", "")),
    )


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, BatonError)
    if isinstance(error, AlreadyRunning):
        # Here it is this header, and not the request's id, that allows a retry.
        message = error.message.replace(error.field, RETRY_HEADER, 1)
        error = AlreadyRunning(message, field=RETRY_HEADER)
    return error_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in (404, 405):
        message = f"{request.method} {request.url.path} is not served here."
    headers = dict(error.headers or {})
    return json_response(plain_body(error.status_code, message), error.status_code, headers)


async def _on_defect(_: Request, __: Exception) -> Response:
    # The envelope says what it was: it gets the error as well.
    return error_response(EngineFailed("The request failed: an internal error."))


async def _on_gone(_: Request, __: Exception) -> Response:
    # Nobody reads this; the status is for the metrics.
    return Response(status_code=499)


_HANDLERS: Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    BatonError: _on_error,
    HTTPException: _on_http_error,
    ClientDisconnect: _on_gone,
}
