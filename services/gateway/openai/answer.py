"""The ASGI side of an answer: streams or sends it, and stops when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from functools import cached_property

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from baton.errors import BatonError, EngineFailed
from baton.rpc import logs
from services.gateway.later import later
from services.gateway.openai.calls import Call
from services.gateway.openai.envelope import short_way
from services.gateway.openai.errors import json_response, shutting_down
from services.gateway.openai.merge import news_of
from services.gateway.openai.pieces import ParsedPieces, Pieces, Taker, Usage
from services.gateway.openai.writers import Events, Whole
from services.gateway.types import Final, Gateway

log = logs.get_logger(__name__)

READING_SECONDS = 30.0
"""How long a client may take to read what is left when its request's time is up."""
WATCH_AFTER_SECONDS = 0.005
"""An answer that is out sooner needs nobody who looks whether its client is still there."""

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    # Proxies must not gather events into larger pieces.
    (b"x-accel-buffering", b"no"),
]


class Answer(Response):
    """Answers one call. An error before the first byte is raised and decides the status."""

    def __init__(
        self,
        gateway: Gateway,
        call: Call,
        new_events: Callable[[], Events],
        new_whole: Callable[[], Whole],
        keepalive_s: float = 0.0,
    ) -> None:
        first = call.commands[0]
        self.background = None
        self._gateway = gateway
        self._call = call
        self._usage = Usage()
        self._new_events = new_events
        self._new_whole = new_whole
        self._keepalive_s = keepalive_s if call.is_stream else 0.0
        self._is_begun = False
        self._is_complete = False
        self._is_quiet = False
        """Whether nothing was sent since the last look."""
        self._is_sending = False
        self._is_unwanted = False
        """Whether the client has left, or does not read."""
        self._watch: asyncio.Task[None] | None = None
        # The gateway ends requests in time; only a client that does not read can make this longer.
        self._limit_s = first.timeout_s + READING_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs until the answer is out, the client has left, or the server stops."""
        later(self._get_ready)
        work = asyncio.current_task()
        assert work is not None
        timer = work.get_loop().call_later(
            WATCH_AFTER_SECONDS, self._begin_watch, work, receive, send
        )
        try:
            try:
                if self._call.is_stream:
                    await self._stream(send, short_way(scope, send))
                else:
                    await self._send(scope, receive, send)
            finally:
                timer.cancel()
                if self._watch is not None:
                    self._watch.cancel()
        except asyncio.CancelledError:
            if self._is_unwanted:
                work.uncancel()
                return
            # Nobody but a server that stops cancels this; its client is still there.
            await self._fail(shutting_down(), send)
        except Exception as error:
            await self._fail(error, send)

    @cached_property
    def _pieces(self) -> Taker:
        count = self._call.commands[0].sample_count
        if self._call.new_reply is None:
            return Pieces(count, self._call.echoes)
        return ParsedPieces(count, self._call.new_reply, self._call.thinks)

    @cached_property
    def _events(self) -> Events:
        return self._new_events()

    def _get_ready(self) -> None:
        """Makes what writes an answer while a worker computes the first token."""
        _ = self._pieces
        if self._call.is_stream:
            _ = self._events

    def _begin_watch(self, work: asyncio.Task[None], receive: Receive, send: Send) -> None:
        self._watch = asyncio.create_task(self._look_after(work, receive, send))

    async def _look_after(self, work: asyncio.Task[None], receive: Receive, send: Send) -> None:
        """Ends the work when its client leaves or reads nothing; keeps a silent stream alive."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limit_s
        # Looked at twice in the time, so that a silence is never much longer than asked for.
        period_s = self._keepalive_s / 2 or self._limit_s
        while not await _is_gone(receive, min(until - loop.time(), period_s)):
            if loop.time() >= until:
                log.warning("client does not read its answer", limit_seconds=self._limit_s)
                break
            # A client that doesn't read is sent no more.
            if self._keepalive_s and self._is_quiet and not self._is_sending:
                await self._begin(send)
                await send(_KEEPALIVE)
            self._is_quiet = True
        self._is_unwanted = True
        work.cancel()

    async def _stream(self, send: Send, send_part: Send) -> None:
        async with aclosing(news_of(self._gateway, self._call.commands)) as news:
            async for index, item in news:
                if isinstance(item, Final):
                    self._usage.add(item)
                elif (piece := self._pieces.take(index, item)) is not None:
                    self._is_sending = True
                    is_first = not self._is_begun
                    await self._begin(send)
                    await send_part(_part(self._events.piece(piece)))
                    self._is_quiet = self._is_sending = False
                    if is_first:
                        # It leaves with this turn of the loop, before the rest is worked out.
                        await asyncio.sleep(0)
        self._is_sending = True
        await self._begin(send)
        self._is_complete = True
        self._usage.num_reasoning_tokens = self._pieces.num_reasoning_tokens
        await send(_part(self._events.end(self._usage), is_last=True))

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole = self._new_whole()
        async with aclosing(news_of(self._gateway, self._call.commands)) as news:
            async for index, item in news:
                if isinstance(item, Final):
                    self._usage.add(item)
                elif (piece := self._pieces.take(index, item)) is not None:
                    whole.add(piece)
        self._is_begun = self._is_complete = True
        self._usage.num_reasoning_tokens = self._pieces.num_reasoning_tokens
        await json_response(whole.body(self._usage))(scope, receive, send)

    async def _begin(self, send: Send) -> None:
        if not self._is_begun:
            self._is_begun = True
            start = {"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS}
            await send(start)

    async def _fail(self, error: Exception, send: Send) -> None:
        """Ends a stream that has begun; before that the error is raised."""
        if not self._is_begun:
            raise error
        if not self._is_complete:
            await send(_part(self._events.failure(_known(error)), is_last=True))


def _part(content: bytes, is_last: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": not is_last}


_KEEPALIVE = _part(b": keep-alive\n\n")


def _known(error: Exception) -> BatonError:
    if isinstance(error, BatonError):
        return error
    log.error("answer broke off", exc_info=error)
    return EngineFailed("The answer broke off: an internal error.")


async def _is_gone(receive: Receive, within_s: float) -> bool:
    """Waits for the client to leave; false: it has not."""
    try:
        async with asyncio.timeout(within_s):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True
