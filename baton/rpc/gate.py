"""Lets calls in while the process is open, and knows how many are inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum

import grpc

from baton.errors import NoWorker
from baton.rpc import metrics
from baton.rpc.handlers import Handler, around

# These answer at any time: they tell others that the process is not open.
_ALWAYS_OPEN = ("/grpc.health.", "/grpc.reflection.")

_calls = metrics.counter("rpc_calls", "Calls let in or refused, by method.", ("method", "outcome"))
_active = metrics.gauge("rpc_active_calls", "Calls running now.")


class Phase(Enum):
    """Where a process is in its life."""

    STARTING = "is starting"
    OPEN = "is open"
    DRAINING = "is draining"


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stub only
    """Refuses calls with UNAVAILABLE before the process is ready and after it began to drain."""

    def __init__(self, name: str) -> None:
        self.phase = Phase.STARTING
        self.num_active = 0
        self._name = name
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if method.startswith(_ALWAYS_OPEN):
            return handler
        return around(handler, lambda _: self._passed(method))

    async def wait_empty(self) -> None:
        """Returns when no call is running."""
        await self._is_empty.wait()

    @asynccontextmanager
    async def _passed(self, method: str) -> AsyncIterator[None]:
        if self.phase is not Phase.OPEN:
            _calls.labels(method, "refused").inc()
            raise NoWorker(f"{self._name} {self.phase.value}", retry_after_s=1.0)
        _calls.labels(method, "passed").inc()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.num_active += change
        _active.inc(change)
        if self.num_active:
            self._is_empty.clear()
        else:
            self._is_empty.set()
