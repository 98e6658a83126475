"""The way to one decode worker: a stream that carries all requests and comes back when broken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from baton import convert
from baton.blocks import pack_tokens
from baton.errors import BatonError, EngineFailed, WorkerLost
from baton.request import FinishReason, SequenceTimings, TokenLogprobs
from baton.rpc import logs
from baton.rpc.channels import TlsFiles, open_channel
from baton.v1 import decode_pb2 as pb
from baton.v1 import decode_pb2_grpc as stubs
from services.gateway.types import GenerateCommand

log = logs.get_logger(__name__)

FRAME_BYTES = 1 << 20
"""Prompts beyond this wait for the next frame: receivers take at least four times as much."""
HANDSHAKE_SECONDS = 5.0
FIRST_BACKOFF_SECONDS = 0.1
LAST_BACKOFF_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Submission:
    """What a decode worker is asked to do: a whole request, or one sample of a migrated one."""

    command: GenerateCommand
    token_ids: tuple[int, ...]
    """The prompt, then what was emitted before a migration."""
    sample_index: int
    sample_count: int
    deadline: float
    """On the clock of `time.monotonic()`."""
    traceparent: str = ""
    prefill_worker_id: str = ""
    prefill_address: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """How a worker ended a sample."""

    reason: FinishReason
    timings: SequenceTimings
    error: BatonError | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """News of one sample."""

    sample_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    end: End | None = None


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
        self._outbox = _Outbox()
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
        """Sends a submission; its news go to `sink` until `forget`. Raises `WorkerLost`."""
        if not self.is_up:
            raise WorkerLost(f"decode worker {self.worker_id} at {self.address} is not connected")
        self._last_handle += 1
        handle = self._last_handle
        self._sinks[handle] = sink
        self._outbox.submit(handle, _submit_to_pb(handle, submission))
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
            try:
                sink.on_delta(_delta_from_pb(message))
            except Exception as error:
                # One request's defect must not take the other requests of this stream with it.
                log.exception("a delta could not be taken", handle=message.handle, **self._names)
                self.cancel(message.handle)
                self.forget(message.handle)
                sink.on_lost(EngineFailed(f"the gateway failed on a delta: {error}"))

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


class _Outbox:
    """What waits to be written: one frame is under way at a time, the rest gathers here."""

    def __init__(self) -> None:
        self._submits: dict[int, pb.SubmitSequence] = {}
        self._cancels: list[pb.CancelSequence] = []
        self._filled = asyncio.Event()

    def submit(self, handle: int, message: pb.SubmitSequence) -> None:
        self._submits[handle] = message
        self._filled.set()

    def cancel(self, handle: int, sample_index: int | None) -> None:
        if sample_index is None and self._submits.pop(handle, None) is not None:
            return
        self._cancels.append(pb.CancelSequence(handle=handle, sample_index=sample_index))
        self._filled.set()

    def clear(self) -> None:
        self._submits.clear()
        self._cancels.clear()
        self._filled.clear()

    async def next_frame(self) -> pb.DecodeConnectRequest:
        """All that waits, up to about `FRAME_BYTES`; waits while there is nothing."""
        await self._filled.wait()
        frame = pb.DecodeConnectRequest()
        num_bytes = 0
        for handle, message in list(self._submits.items()):
            if num_bytes and num_bytes + len(message.token_ids) > FRAME_BYTES:
                break
            num_bytes += len(message.token_ids)
            frame.submits.append(self._submits.pop(handle))
        # None of these is for a submission that stays behind: `cancel` took that out.
        frame.cancels.extend(self._cancels)
        self._cancels.clear()
        if not self._submits:
            self._filled.clear()
        return frame


def _submit_to_pb(handle: int, submission: Submission) -> pb.SubmitSequence:
    command = submission.command
    left_s = max(submission.deadline - time.monotonic(), 0.001)
    return pb.SubmitSequence(
        handle=handle,
        request_id=command.request_id,
        traceparent=submission.traceparent,
        token_ids=pack_tokens(submission.token_ids),
        prompt_len=len(command.token_ids),
        sampling=convert.sampling_to_pb(command.sampling),
        sample_index=submission.sample_index,
        sample_count=submission.sample_count,
        cache_salt=command.cache_salt,
        priority=command.priority,
        timeout_ms=round(left_s * 1000) or 1,
        prefill_worker_id=submission.prefill_worker_id,
        prefill_address=submission.prefill_address,
    )


def _delta_from_pb(message: pb.SequenceDelta) -> Delta:
    return Delta(
        sample_index=message.sample_index,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(map(convert.logprobs_from_pb, message.logprobs)),
        end=_end_from_pb(message.end) if message.HasField("end") else None,
    )


def _end_from_pb(message: pb.SequenceEnd) -> End:
    reason = convert.finish_from_pb(message.finish_reason)
    error = convert.error_from_pb(message.error) if reason is FinishReason.ERROR else None
    return End(reason, convert.timings_from_pb(message.timings), error)


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
