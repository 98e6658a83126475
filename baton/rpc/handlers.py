"""Puts something around a gRPC handler, whatever its kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, TypeAlias

import grpc

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
    wrapped = _guarded(behaviour, guard)
    kind = (handler.request_streaming, handler.response_streaming)
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[kind]
    made: Handler = make(wrapped, handler.request_deserializer, handler.response_serializer)
    return made


def _guarded(behaviour: Any, guard: Guard) -> Any:
    async def run(request: Any, context: Context) -> Any:
        async with guard(context):
            return await behaviour(request, context)

    async def write_all(request: Any, context: Context) -> None:
        # Closed at once when the call is cancelled: its `finally` does not wait for a collector.
        async with guard(context), aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write_all if inspect.isasyncgenfunction(behaviour) else run
