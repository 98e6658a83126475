"""The HTTP server as a part of a process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from services.gateway.openai.connection import IDLE_SECONDS, RECEIVE_SECONDS, Connection

BACKLOG = 2048
STOP_SECONDS = 3.0
"""How long clients may take to read the last they get when the server stops."""

_TICK_SECONDS = 0.05
_TICKS_PER_CHECK = 5


class HttpServer:
    """Serves an application on `host:port`; port 0 picks a free one.

    Shared, the address is also open to other processes that share it, and `leave` leaves it to
    them. Signals are its process's affair. `drain` ends well what runs; `stop` ends the rest with
    errors.
    """

    def __init__(
        self,
        app: ASGIApp,
        listen: str,
        *,
        receive_s: float = RECEIVE_SECONDS,
        is_shared: bool = False,
    ) -> None:
        self._listen = listen
        self._is_shared = is_shared
        self._listener: socket.socket | None = None
        self._server = _Server(
            uvicorn.Config(
                app,
                http=partial(Connection, receive_s=receive_s),  # type: ignore[arg-type]
                timeout_keep_alive=IDLE_SECONDS,
                # Nobody here asks who the client is, so proxies' headers about it are not read.
                proxy_headers=False,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self.address = listen
        """Where it listens; with the real port once started."""

    async def start(self) -> None:
        """Listens. Raises OSError when the address is taken."""
        self._listener = listener = _bind(self._listen, self._is_shared)
        host = self._listen.rpartition(":")[0]
        self.address = f"{host}:{listener.getsockname()[1]}"
        self._serving = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.001)
        if self._serving.done():
            self._serving.result()

    async def leave(self) -> None:
        """Takes no new connections from now on; those that wait to be accepted are served.

        What the kernel completes between the last look and the closing, microseconds later, is
        reset, unless net.ipv4.tcp_migrate_req hands it to another process that shares the address.
        """
        if self._listener is not None:
            await self._server.leave(self._listener)

    async def drain(self) -> None:
        """Takes no new connections and returns when the last answer is out."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def stop(self) -> None:
        """Ends the answers that still run with an error, and closes."""
        if self._serving is None:
            return
        self._server.should_exit = True
        cancelled: set[asyncio.Task[None]] = set()
        # Again and again, since answers may begin until the server has noticed.
        for _ in range(int(STOP_SECONDS / _TICK_SECONDS)):
            for answer in self._server.server_state.tasks - cancelled:
                cancelled.add(answer)
                answer.cancel()
            if (await asyncio.wait({self._serving}, timeout=_TICK_SECONDS))[0]:
                break
        self._drop_connections()
        await self._serving

    def _drop_connections(self) -> None:
        """For clients that neither read nor leave."""
        self._server.force_exit = True
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()


class _Server(uvicorn.Server):
    """Leaves signals alone, and looks after slow connections."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        """Called every tenth of a second."""
        if counter % _TICKS_PER_CHECK == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(now)
        return await super().on_tick(counter)

    async def leave(self, listener: socket.socket) -> None:
        """Accepts all that wait, then closes the listener; the rest of the server lives on."""
        loop, accepted = asyncio.get_running_loop(), []
        with suppress(BlockingIOError):
            while True:
                accepted.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        for connection in accepted:
            connection.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            self.config, self.server_state, self.lifespan.state
        )


def _bind(listen: str, is_shared: bool) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that say they are TCP; accepted ones inherit it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, int(port)))
    except OSError as failure:
        listener.close()
        raise OSError(f"cannot listen on {listen}: {failure.strerror}") from failure
    listener.setblocking(False)
    return listener
