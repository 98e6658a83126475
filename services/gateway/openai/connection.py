"""One client's HTTP/1.1 connection, with what uvicorn leaves to the client's good will."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from baton.rpc import logs
from services.gateway.openai.cork import CorkedProtocol
from services.gateway.openai.envelope import answers
from services.gateway.openai.errors import plain_body

IDLE_SECONDS = 75
"""How long a connection may say nothing; longer than usual proxies keep theirs, so that they end
them and never send a request into a closing one."""
RECEIVE_SECONDS = 60.0
"""How long a request may take to arrive, head and body."""
LINGER_SECONDS = 30.0
"""How long the rest of an answer may take to be read once the connection is closing."""
MAX_HEAD_BYTES = 64 << 10
"""Of a request's line and headers, and of what stands between and behind the chunks of a body."""
MAX_PIPELINED = 16
"""Requests that wait behind the one under way. Reading goes on, which is how leaving is noticed."""

_DECLINED = (b"upgrade", b"connection", b"http2-settings")

log = logs.get_logger(__name__)


class Connection(CorkedProtocol):
    """Limits what arrives in time and size, and refuses in OpenAI's form what is no request."""

    def __init__(self, *arguments: Any, receive_s: float = RECEIVE_SECONDS, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._receive_s = receive_s
        self._under_way: Any = None
        """The cycle whose request is being answered: the oldest of those that are pipelined."""
        self._receiving_since: float | None = None
        self._closing_since: float | None = None
        self._num_gathered = 0
        """Bytes that came and were neither a body's nor the end of a head."""
        self._is_head = False
        self._is_body_begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a new connection, which may be idle as long as one between two requests."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells every request of the connection; uvicorn would tell the newest one only."""
        self._unset_keepalive_if_required()
        self._tell_gone()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses what came."""
        self._unset_keepalive_if_required()
        if self._receiving_since is None:
            self._receiving_since = self.loop.time()
        self._num_gathered += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(400, "This is no HTTP/1.1 request.")
        else:
            if self._num_gathered > MAX_HEAD_BYTES:
                self._refuse_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_head = True
        if self._receiving_since is None:
            self._receiving_since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header. Trailers are not: a proxy that checks headers has not looked at them."""
        if self._is_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._is_head = False
        if self.parser.should_upgrade() or self.transport.is_closing():
            return
        if self._num_gathered > MAX_HEAD_BYTES and self._head_len() > MAX_HEAD_BYTES:
            self._refuse_head()
            return
        self._num_gathered = 0
        self._is_body_begun = False
        super().on_headers_complete()
        if 0 < len(self.pipeline) <= MAX_PIPELINED:
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._num_gathered = 0
        self._is_body_begun = True
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._num_gathered = 0
        if self.parser.should_upgrade() or self.cycle is None:
            return
        self._receiving_since = None
        super().on_message_complete()
        if self.cycle.response_complete:
            # Its answer came first, and the clock was stopped by what came then.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """An answer is out."""
        cycle = self._under_way
        super().on_response_complete()
        if cycle.more_body and not self._is_body_begun and _expects(cycle):
            # It was not told to go on. Its body or a new request may come now: nobody can know.
            self.transport.close()

    def check(self, now: float) -> None:
        """Ends what takes too long; called about once a second."""
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > LINGER_SECONDS:
                self.transport.abort()
        elif self._receiving_since is None or now - self._receiving_since <= self._receive_s:
            return
        elif self._is_answering() and not self._under_way.more_body:
            self._receiving_since = now
        else:
            self._refuse(408, f"The request has not come whole within {self._receive_s:g} s.")

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._under_way = cycle
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        return self._under_way is not None and not self._under_way.response_complete

    def _parse(self, data: bytes) -> None:
        for _ in range(MAX_PIPELINED):
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
        raise httptools.HttpParserError("too many upgrades")

    def _without_upgrade(self) -> bytes:
        """The head again, since the parser takes what follows it for the other protocol's."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("CONNECT")
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % pair for pair in self.headers if pair[0] not in _DECLINED]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _head_len(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _refuse_head(self) -> None:
        self._refuse(431, f"The request's headers are too long; at most {MAX_HEAD_BYTES:,} bytes.")

    def _refuse(self, status: int, message: str) -> None:
        """Answers what is no request, if that is the next answer due, and closes."""
        if self.transport.is_closing():
            return
        cycle = self._under_way
        log.debug("connection refused", status=status, reason=message)
        if cycle is None or (
            cycle.more_body != cycle.response_complete
            and (cycle.response_complete or not cycle.response_started)
        ):
            self.transport.write(_refusal(status, message))
            answers.labels("none", status).inc()
        self._tell_gone()
        self.transport.close()

    def _tell_gone(self) -> None:
        for cycle in (self._under_way, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()


def _expects(cycle: Any) -> bool:
    return any(name == b"expect" for name, _ in cycle.scope["headers"])


def _refusal(status: int, message: str) -> bytes:
    body = json.dumps(plain_body(status, message), separators=(",", ":")).encode()
    return b"".join(
        (
            STATUS_LINE[status],
            b"content-type: application/json\r\n",
            b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
            body,
        )
    )
