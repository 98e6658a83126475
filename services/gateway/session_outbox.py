"""What waits to be written to a session: all that is ready leaves as one frame.

News cost no task and no wake-up each: links put chunks into the mailboxes of many requests in one
go, and the stream's writer, woken once, empties them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from baton import convert
from baton.errors import BatonError, Cancelled, EngineFailed
from baton.rpc import logs
from baton.v1 import gateway_pb2 as pb
from services.gateway.grpc_messages import Writer, final_to_pb
from services.gateway.mailbox import Tray
from services.gateway.types import Final
from services.gateway.validation import MAX_REQUEST_ID_LEN

log = logs.get_logger(__name__)

FRAME_BYTES = 1 << 20
"""A frame ends behind the event that reaches this; one merged chunk has at most 0.7 MB."""


class Run:
    """One request of a session, from its submission to the writing of its end."""

    def __init__(self, handle: int, request_id: str, outbox: SessionOutbox) -> None:
        self.handle = handle
        self.request_id = request_id
        self.tray = Tray(lambda: outbox.mark(self))
        self.writer: Writer | None = None
        self._outbox = outbox
        self._task: asyncio.Task[Final] | None = None
        self._end: Final | BatonError | None = None
        self._is_begun = False

    def start(self, answer: Coroutine[Any, Any, Final]) -> None:
        """Runs what fills the mailbox and returns the final."""
        self._task = asyncio.create_task(answer)
        self._task.add_done_callback(self._on_end)

    def cancel(self) -> None:
        """Ends it early; the end still comes."""
        if self._task is not None:
            self._task.cancel()

    def next_event(self) -> pb.SessionEvent | None:
        """A chunk or the end; None when there is no news."""
        while (chunk := self.tray.take_now()) is not None:
            assert self.writer is not None
            message = self.writer.chunk(chunk)
            if message is not None:
                event = pb.SessionEvent(handle=self.handle, chunk=message)
                return self._named(event)
        end, self._end = self._end, None
        if end is None:
            return None
        del self._outbox.runs[self.handle]
        if isinstance(end, BatonError):
            return _error_event(self.handle, self.request_id, end)
        return self._named(pb.SessionEvent(handle=self.handle, final=final_to_pb(end)))

    def _named(self, event: pb.SessionEvent) -> pb.SessionEvent:
        if not self._is_begun:
            self._is_begun = True
            event.request_id = self.request_id
        return event

    def _on_end(self, task: asyncio.Task[Final]) -> None:
        self._end = _end_of(task)
        self._outbox.mark(self)


class SessionOutbox:
    """The requests of one session, and those of them that have news."""

    def __init__(self, max_refusals: int) -> None:
        self.runs: dict[int, Run] = {}
        """By handle, until their ends are written."""
        self._max_refusals = max_refusals
        self._refusals: list[pb.SessionEvent] = []
        self._ready: dict[Run, None] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._is_finishing = False

    def mark(self, run: Run) -> None:
        """A request has news."""
        self._ready[run] = None
        self._wake.set()

    def refuse(self, handle: int, request_id: str, error: BatonError) -> None:
        """Tells of a submission that was not taken."""
        self._refusals.append(_error_event(handle, request_id[:MAX_REQUEST_ID_LEN], error))
        if len(self._refusals) >= self._max_refusals:
            self._room.clear()
        self._wake.set()

    async def has_room(self) -> None:
        """Waits while a client that does not read has many refusals coming."""
        await self._room.wait()

    def finish(self) -> None:
        """Ends `frames` when no request is left."""
        self._is_finishing = True
        self._wake.set()

    async def frames(self) -> AsyncIterator[pb.SessionResponse]:
        """All that is ready, again and again; ask for the next when the last one is written."""
        while not (self._is_finishing and not self.runs and not self._refusals):
            await self._wake.wait()
            self._wake.clear()
            events = self._gather()
            if events:
                yield pb.SessionResponse(events=events)

    def _gather(self) -> list[pb.SessionEvent]:
        events, self._refusals = self._refusals, []
        self._room.set()
        num_bytes = 0
        while self._ready and num_bytes < FRAME_BYTES:
            # One that still has news goes to the end of the line.
            run = next(iter(self._ready))
            del self._ready[run]
            event = run.next_event()
            if event is not None:
                self._ready[run] = None
                events.append(event)
                num_bytes += event.ByteSize()
        if self._ready:
            self._wake.set()
        return events


def _error_event(handle: int, request_id: str, error: BatonError) -> pb.SessionEvent:
    return pb.SessionEvent(handle=handle, request_id=request_id, error=convert.error_to_pb(error))


def _end_of(task: asyncio.Task[Final]) -> Final | BatonError:
    """What a request came to."""
    if task.cancelled():
        return Cancelled("the client cancelled the request")
    match task.exception():
        case None:
            return task.result()
        case BatonError() as error:
            return error
        case defect:
            log.error("a session's request failed", exc_info=defect)
            return EngineFailed(f"{type(defect).__name__} in a session")
