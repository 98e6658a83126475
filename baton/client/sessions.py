"""Many requests on one stream, for programs with and without an event loop."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self, Unpack

import grpc

from baton.client import messages
from baton.client.types import Chunk, Final, Options, Prompt, Sampling
from baton.errors import BatonError, WorkerLost
from baton.rpc.outbox import Outbox
from baton.rpc.status import from_rpc_error
from baton.v1 import gateway_pb2 as pb

FRAME_BYTES = 1 << 20
"""Submissions beyond this wait for the next frame: gateways take four times as much."""


class SessionEvent(NamedTuple):
    """News of one request: chunks, then one `Final` or one error, which is not raised."""

    handle: int
    event: Chunk | Final | BatonError


Part = pb.SessionSubmit | pb.SessionCancel


class _Book:
    """The handles of a session: given out one after the other, open until their ends came."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self._last_handle = 0

    def submit(self, prompt: Prompt, sampling: Sampling | None, options: Options) -> Any:
        message = messages.sendable(
            pb.SessionSubmit(
                handle=self._last_handle + 1,
                request=messages.generate_request(prompt, sampling or Sampling(), options),
                traceparent=options.get("traceparent", ""),
            )
        )
        self._last_handle += 1
        self.open.add(self._last_handle)
        return message

    def read(self, frame: pb.SessionResponse) -> list[SessionEvent]:
        events = []
        for message in frame.events:
            event = messages.session_event(message)
            if not isinstance(event, Chunk):
                self.open.discard(message.handle)
            events.append(SessionEvent(message.handle, event))
        return events

    def broken(self) -> WorkerLost:
        num_open, self.open = len(self.open), set()
        return WorkerLost(f"the session ended with {num_open} requests unanswered")


def _frames_of(parts: list[Part]) -> Iterator[pb.SessionRequest]:
    """All parts in order, in frames of about `FRAME_BYTES`."""
    frame, num_bytes = pb.SessionRequest(), 0
    for part in parts:
        part_bytes = part.ByteSize()
        if num_bytes and num_bytes + part_bytes > FRAME_BYTES:
            yield frame
            frame, num_bytes = pb.SessionRequest(), 0
        num_bytes += part_bytes
        # A submission is in the frame of its cancel or before it, and is read first there.
        if isinstance(part, pb.SessionSubmit):
            frame.submits.append(part)
        else:
            frame.cancels.append(part)
    yield frame


class AsyncSession:
    """A session. Leaving it, or closing it, cancels what still runs. One task reads its events."""

    def __init__(self, stub: Any) -> None:
        self._outbox: Outbox[Part] = Outbox()
        self._book = _Book()
        self._call = stub.Session(self._frames())

    def submit(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> int:
        """Sends a request; returns the handle under which its events come."""
        message = self._book.submit(prompt, sampling, options)
        self._outbox.put(message)
        return int(message.handle)

    def cancel(self, handle: int) -> None:
        """Ends a request early. Its end still comes, an error if it had not ended before."""
        self._outbox.put(pb.SessionCancel(handle=handle))

    async def events(self) -> AsyncIterator[SessionEvent]:
        """Until every request submitted so far has ended. Raises when the stream breaks."""
        while self._book.open:
            try:
                frame = await self._call.read()
            except grpc.aio.AioRpcError as failure:
                self._book.broken()
                raise from_rpc_error(failure) from failure
            if not isinstance(frame, pb.SessionResponse):  # the end of the stream
                await self._raise_end()
            for event in self._book.read(frame):
                yield event

    async def close(self) -> None:
        """Ends the stream, and with it whatever still runs."""
        self._outbox.close()
        if self._book.open:
            self._call.cancel()
            return
        await self._call.code()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is asyncio.CancelledError:
            self._call.cancel()
        await self.close()

    async def _frames(self) -> AsyncIterator[pb.SessionRequest]:
        async for parts in self._outbox.batches():
            for frame in _frames_of(parts):
                yield frame

    async def _raise_end(self) -> None:
        code = await self._call.code()
        broken = self._book.broken()
        if code is not grpc.StatusCode.OK:
            details = await self._call.details()
            trailers = await self._call.trailing_metadata()
            failure = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details, None)
            raise from_rpc_error(failure) from None
        raise broken


class Session:
    """A session. Leaving it, or closing it, cancels what still runs.

    Threads may submit and cancel while one reads the events.
    """

    def __init__(self, stub: Any) -> None:
        self._parts: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._book = _Book()
        self._call = stub.Session(self._frames())

    def submit(
        self, prompt: Prompt, sampling: Sampling | None = None, **options: Unpack[Options]
    ) -> int:
        """Sends a request; returns the handle under which its events come."""
        message = self._book.submit(prompt, sampling, options)
        self._parts.put(message)
        return int(message.handle)

    def cancel(self, handle: int) -> None:
        """Ends a request early. Its end still comes, an error if it had not ended before."""
        self._parts.put(pb.SessionCancel(handle=handle))

    def events(self) -> Iterator[SessionEvent]:
        """Until every request submitted so far has ended. Raises when the stream breaks."""
        while self._book.open:
            try:
                frame = next(self._call)
            except StopIteration:
                raise self._book.broken() from None
            except grpc.RpcError as failure:
                self._book.broken()
                failed: Any = failure
                raise from_rpc_error(failed) from failure
            yield from self._book.read(frame)

    def close(self) -> None:
        """Ends the stream, and with it whatever still runs."""
        self._parts.put(None)
        if self._book.open:
            self._call.cancel()
        else:
            self._call.code()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _frames(self) -> Iterator[pb.SessionRequest]:
        while (part := self._parts.get()) is not None:
            parts = [part]
            # What has gathered meanwhile goes with it; an end stays for the next turn.
            while not self._parts.empty():
                following = self._parts.get()
                if following is None:
                    self._parts.put(None)
                    break
                parts.append(following)
            yield from _frames_of(parts)
