"""The way to one decode worker: a stream that carries all requests and comes back when broken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from baton.errors import BatonError, EngineFailed, InvalidRequest, WorkerLost
from baton.rpc import logs
from baton.rpc.channels import TlsFiles, open_channel
from baton.v1 import decode_pb2 as pb
from baton.v1 import decode_pb2_grpc as stubs
from services.gateway.frames import (
    MAX_TOKENS,
    Delta,
    FrameOutbox,
    Submission,
    delta_from_pb,
    submit_to_pb,
)

log = logs.get_logger(__name__)

HANDSHAKE_SECONDS = 5.0
FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 2.0


class Sink(Protocol):
    """Who gets the news of one submission, on the event loop."""

    def on_delta(self, delta: Delta) -> None:
        """New tokens or an end."""

    def on_lost(self, error: BatonError) -> None:
        """The stream broke: nothing more comes for this submission."""


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """Who is at the two ends of a link."""

    worker_id: str
    address: str
    gateway_id: str
    tls: TlsFiles | None = None


class DecodeLink:
    """One bidirectional stream to a decode worker. Usable while `is_up`; reconnects by itself.

    `submit` and `cancel` return at once: what they leave is written by one task, at once when the
    stream is idle and as one frame when a write is under way.
    """

    def __init__(self, end: LinkEnd, on_change: Callable[[DecodeLink], None]) -> None:
        self.worker_id = end.worker_id
        self.address = end.address
        self.epoch = ""
        self.is_up = False
        self.is_retired = False
        self._is_closed = False
        self._gateway_id = end.gateway_id
        self._on_change = on_change
        self._outbox = FrameOutbox()
        self._sinks: dict[int, Sink] = {}
        self._last_handle = 0
        self._hurry = asyncio.Event()
        self._channel = open_channel(end.address, end.tls)
        self._task = asyncio.create_task(self._run(), name=f"link to {end.worker_id}")

    @property
    def is_usable(self) -> bool:
        """Whether new submissions may go here."""
        return self.is_up and not self.is_retired

    @property
    def is_closed(self) -> bool:
        """Whether it is gone for good."""
        return self._is_closed

    @property
    def num_open(self) -> int:
        """Submissions that have not ended."""
        return len(self._sinks)

    def submit(self, submission: Submission, sink: Sink) -> int:
        """Sends a submission; its news go to `sink` until `forget`. Raises `BatonError`."""
        if not self.is_up:
            raise WorkerLost(f"decode worker {self.worker_id} at {self.address} is not connected")
        num_tokens = len(submission.token_ids)
        if num_tokens > MAX_TOKENS:
            raise InvalidRequest(
                f"the prompt has {num_tokens:,} tokens; at most {MAX_TOKENS:,} can be sent",
                field="prompt",
            )
        self._last_handle += 1
        handle = self._last_handle
        self._sinks[handle] = sink
        self._outbox.submit(handle, submit_to_pb(handle, submission))
        return handle

    def cancel(self, handle: int, sample_index: int | None = None) -> None:
        """Asks the worker to end a submission or one sample of it."""
        if self.is_up and handle in self._sinks:
            self._outbox.cancel(handle, sample_index)

    def forget(self, handle: int) -> None:
        """Drops later news of a submission."""
        self._sinks.pop(handle, None)
        if self.is_retired and not self._sinks:
            self._task.cancel()

    def hurry(self) -> None:
        """Ends a wait between two attempts: there is reason to think that the worker is back."""
        self._hurry.set()

    def retire(self) -> None:
        """Takes nothing new; closes once the running submissions have ended or it breaks."""
        self.is_retired = True
        if not self._sinks or not self.is_up:
            self._task.cancel()

    def revive(self) -> bool:
        """Takes submissions again after `retire`; false when it has closed already."""
        self.is_retired = self._task.done() or self._task.cancelling() > 0
        return not self.is_retired

    async def close(self) -> None:
        """Ends the stream; submissions still open are lost."""
        self.is_retired = True
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        try:
            while not self.is_retired:
                since = time.monotonic()
                reason = await self._connect_and_carry()
                was_up = self.is_up
                if was_up:
                    backoff = FIRST_BACKOFF_SECONDS
                    log.warning("decode link broke", **self._names, reason=reason)
                else:
                    log.info("decode worker is not reachable", **self._names, reason=reason)
                self._break(reason)
                await self._pause(backoff - (0 if was_up else time.monotonic() - since))
                backoff = min(2 * backoff, LAST_BACKOFF_SECONDS)
        finally:
            self._is_closed = True
            self._break("the gateway closed it")
            self._on_change(self)
            await self._channel.close(None)

    async def _pause(self, seconds: float) -> None:
        self._hurry.clear()
        try:
            await asyncio.wait_for(self._hurry.wait(), max(seconds, 0.01))
        except TimeoutError:
            return

    @property
    def _names(self) -> dict[str, str]:
        return {"worker_id": self.worker_id, "address": self.address}

    async def _connect_and_carry(self) -> str:
        """One life of the stream; returns why it ended."""
        call = stubs.DecodeServiceStub(self._channel).Connect()
        frames = aiter(call)
        writer: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await call.write(pb.DecodeConnectRequest(gateway_id=self._gateway_id))
                first = await anext(frames)
            writer = asyncio.create_task(self._write_frames(call))
            self._greet(first)
            async for frame in frames:
                self._deliver(frame)
        except StopAsyncIteration:
            return "the worker ended the stream before it began"
        except TimeoutError:
            return f"no first frame within {HANDSHAKE_SECONDS:g} s"
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            return _reason(error)
        except asyncio.CancelledError:
            # A broken write cancels the call, and a cancelled call raises this into its reader.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return "a write failed"
        finally:
            if writer is not None:
                writer.cancel()
            call.cancel()
        return "the worker ended the stream"

    def _greet(self, first: pb.DecodeConnectResponse) -> None:
        self.epoch = first.epoch
        self.is_up = True
        log.info("decode link is up", **self._names, epoch=self.epoch)
        self._on_change(self)
        self._deliver(first)

    async def _write_frames(self, call: Any) -> None:
        try:
            while True:
                await call.write(await self._outbox.next_frame())
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            call.cancel()

    def _deliver(self, frame: pb.DecodeConnectResponse) -> None:
        for message in frame.deltas:
            sink = self._sinks.get(message.handle)
            if sink is None:
                continue
            # One request's defect must not take the other requests of this stream with it.
            try:
                sink.on_delta(delta_from_pb(message))
            except BatonError as error:
                log.error("a delta cannot be read", error=error.message, **self._names)
                self._give_up(message.handle, sink, error)
            except Exception as error:
                log.exception("a delta could not be taken", handle=message.handle, **self._names)
                reason = EngineFailed(f"the gateway failed on a delta: {error}")
                self._give_up(message.handle, sink, reason)

    def _give_up(self, handle: int, sink: Sink, error: BatonError) -> None:
        self.cancel(handle)
        self.forget(handle)
        sink.on_lost(error)

    def _break(self, reason: str) -> None:
        was_up, self.is_up = self.is_up, False
        self._outbox.clear()
        lost, self._sinks = self._sinks, {}
        if was_up:
            self._on_change(self)
        error = WorkerLost(
            f"the stream to decode worker {self.worker_id} at {self.address} broke: {reason}"
        )
        for sink in lost.values():
            sink.on_lost(error)


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
