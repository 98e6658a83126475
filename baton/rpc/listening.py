"""gRPC servers on addresses: one of the process's own, and one that it shares with others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import grpc

from baton.rpc.channels import SERVER_OPTIONS, SHARED_SERVER_OPTIONS, TlsFiles

AddServicer = Callable[[grpc.aio.Server], object]
"""Puts a servicer into a server."""
Interceptors = Sequence[grpc.aio.ServerInterceptor]  # type: ignore[type-arg]  # in its stub only


def own_server(interceptors: Interceptors) -> grpc.aio.Server:
    """A server whose addresses nobody else may have."""
    return grpc.aio.server(interceptors=interceptors, options=SERVER_OPTIONS)


def bind(server: grpc.aio.Server, listen: str, tls: TlsFiles | None) -> int:
    """Listens; returns the port. Raises OSError when the address is taken."""
    credentials = tls.for_server() if tls is not None else None
    try:
        if credentials is None:
            return server.add_insecure_port(listen)
        return server.add_secure_port(listen, credentials)
    except RuntimeError as failure:
        raise OSError(f"cannot listen on {listen}: is the address taken?") from failure


class SharedDoor:
    """An address on which several processes of one machine serve the same calls.

    The kernel gives each connection to one of those that listen. So a process listens only while
    it wants connections: from `open` to `leave`.
    """

    def __init__(self, listen: str, interceptors: Interceptors, tls: TlsFiles | None) -> None:
        self.listen = listen
        self._server = grpc.aio.server(interceptors=interceptors, options=SHARED_SERVER_OPTIONS)
        self._tls = tls
        self._ending: asyncio.Task[None] | None = None

    async def open(self, servicers: Iterable[AddServicer]) -> None:
        """Serves. Raises OSError where a process that does not share has the address."""
        for add in servicers:
            add(self._server)
        bind(self._server, self.listen, self._tls)
        await self._server.start()

    async def leave(self, limit_s: float) -> None:
        """Stops listening and asks clients to connect anew; running calls may go on so long.

        A call that a client sends before it has read that is cancelled by gRPC.
        """
        self._ending = asyncio.create_task(self._server.stop(limit_s))
        # Its first step is what stops the listening.
        await asyncio.sleep(0)

    async def stop(self) -> None:
        """Cancels what still runs."""
        if self._ending is not None:
            # Its wait for running calls would hold up the one below.
            self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)
        await self._server.stop(None)
