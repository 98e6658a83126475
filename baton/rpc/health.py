"""The standard health service; unlike the published one it tells every watcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from baton.rpc.handlers import Context

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated, untyped
    """One status for the process and all its services."""

    def __init__(self) -> None:
        self._names = {"", NAME}
        self._is_serving = False
        self._changed = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """What is answered now."""
        return self._is_serving

    def add(self, names: Iterable[str]) -> None:
        """Answers for these services too."""
        self._names.update(names)

    def set(self, is_serving: bool) -> None:
        """Changes the status and tells all watchers."""
        if is_serving != self._is_serving:
            self._is_serving = is_serving
            self._changed.set()
            self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Context) -> Any:
        """Answers once."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return self._answer(request.service)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Answers now and at every change."""
        while True:
            changed = self._changed
            yield self._answer(request.service)
            await changed.wait()

    def _answer(self, name: str) -> Any:
        status = SERVING if self._is_serving else NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status if name in self._names else _UNKNOWN)
