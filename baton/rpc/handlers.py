"""Puts something around a gRPC handler, whatever its kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from baton.errors import InvalidRequest

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Guard = Callable[[Context], AbstractAsyncContextManager[None]]


def around(handler: Handler, guard: Guard) -> Handler:
    """The same handler, run inside `guard(context)`. An unknown method (None) stays unknown."""
    if handler is None:
        return handler
    # grpc fills exactly one of the four.
    behaviour: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    parse = _refusing(handler.request_deserializer)
    is_stream = handler.request_streaming
    # One request is parsed inside the guard: before it, what parsing raises is nobody's.
    wrapped = _guarded(behaviour, guard, _as_it_is if is_stream else parse)
    kind = (is_stream, handler.response_streaming)
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[kind]
    made: Handler = make(wrapped, parse if is_stream else None, handler.response_serializer)
    return made


def _refusing(parse: Any) -> Any:
    """The same parser; bytes that are no message are the client's mistake."""

    def parse_or_refuse(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError as error:
            raise InvalidRequest(
                f"the message of {len(raw):,} bytes is not one of this call's"
            ) from error

    return _as_it_is if parse is None else parse_or_refuse


def _as_it_is(request: Any) -> Any:
    return request


def _guarded(behaviour: Any, guard: Guard, parse: Any) -> Any:
    async def run(request: Any, context: Context) -> Any:
        async with guard(context):
            return await behaviour(parse(request), context)

    async def write_all(request: Any, context: Context) -> None:
        # Closed at once when the call is cancelled: its `finally` does not wait for a collector.
        async with guard(context), aclosing(behaviour(parse(request), context)) as responses:
            async for response in responses:
                await context.write(response)

    return write_all if inspect.isasyncgenfunction(behaviour) else run
