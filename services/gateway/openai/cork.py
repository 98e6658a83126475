"""An HTTP connection whose writes leave together: one system call a turn of the loop, not three."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HELD_BYTES = 64 << 10
"""More than this leaves at once, so that the transport's own limits are felt in time."""


class CorkedTransport:
    """Gathers what is written until the loop's next turn; all else is the transport's own.

    Head, first event and end of a short answer are written one behind the other. Each system call
    wakes the client's processor, which on a virtual machine costs more than all the rest of it.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._num_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes with the next turn of the loop."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)
        self._num_bytes += len(data)
        if self._num_bytes > MOST_HELD_BYTES:
            self._flush()

    def close(self) -> None:
        """Closes behind what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            parts, self._parts, self._num_bytes = self._parts, [], 0
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 over a corked transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a new connection."""
        super().connection_made(CorkedTransport(transport))  # type: ignore[arg-type]
