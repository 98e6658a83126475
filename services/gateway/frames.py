"""Frames between gateway and decode worker: what is in them, and what waits to be written."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from baton import convert
from baton.errors import BatonError
from baton.request import FinishReason, SequenceTimings, TokenLogprobs
from baton.rpc.channels import MAX_MESSAGE_BYTES
from baton.tokens import TokenIds
from baton.v1 import decode_pb2 as pb
from services.gateway.types import GenerateCommand

FRAME_BYTES = 1 << 20
"""Prompts beyond this wait for the next frame: receivers take at least four times as much."""
MAX_TOKENS = (MAX_MESSAGE_BYTES - (64 << 10)) // 4
"""One submission must fit into a frame: four bytes a token, and 64 KB for all else."""


# Not frozen: there is one per request, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Submission:
    """What a decode worker is asked to do: a whole request, or one sample of a migrated one.

    Nobody changes one.
    """

    command: GenerateCommand
    token_ids: TokenIds
    """The prompt, then what was emitted before a migration."""
    sample_index: int
    sample_count: int
    deadline: float
    """On the clock of `time.monotonic()`."""
    traceparent: str = ""
    prefill_worker_id: str = ""
    prefill_address: str = ""


class End:
    """How a worker ended a sample."""

    __slots__ = ("_message", "error", "reason")

    def __init__(self, message: pb.SequenceEnd) -> None:
        self.reason = convert.finish_from_pb(message.finish_reason)
        self.error: BatonError | None = None
        if self.reason is FinishReason.ERROR:
            self.error = convert.error_from_pb(message.error)
        self._message = message

    @property
    def timings(self) -> SequenceTimings:
        """Where its time went. Read when asked for: no token waits for it."""
        return convert.timings_from_pb(self._message.timings)


# Not frozen: there is one per token, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Delta:
    """News of one sample. Nobody changes one."""

    sample_index: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    end: End | None = None


class FrameOutbox:
    """What waits to be written: one frame is under way at a time, the rest gathers here."""

    def __init__(self) -> None:
        self._submits: dict[int, pb.SubmitSequence] = {}
        self._cancels: list[pb.CancelSequence] = []
        self._writer: asyncio.Future[None] | None = None
        """Of `next_frame`, where it waits."""

    def submit(self, handle: int, message: pb.SubmitSequence) -> None:
        self._submits[handle] = message
        self._wake()

    def cancel(self, handle: int, sample_index: int | None) -> None:
        if sample_index is None and self._submits.pop(handle, None) is not None:
            return
        self._cancels.append(pb.CancelSequence(handle=handle, sample_index=sample_index))
        self._wake()

    def clear(self) -> None:
        self._submits.clear()
        self._cancels.clear()

    async def next_frame(self) -> pb.DecodeConnectRequest:
        """All that waits, up to about `FRAME_BYTES`; waits while there is nothing."""
        while not self._submits and not self._cancels:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
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
        return frame

    def _wake(self) -> None:
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)


def submit_to_pb(handle: int, submission: Submission) -> pb.SubmitSequence:
    command = submission.command
    left_s = max(submission.deadline - time.monotonic(), 0.001)
    return pb.SubmitSequence(
        handle=handle,
        request_id=command.request_id,
        traceparent=submission.traceparent,
        token_ids=submission.token_ids.packed,
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


def delta_from_pb(message: pb.SequenceDelta) -> Delta:
    logprobs = message.logprobs
    return Delta(
        sample_index=message.sample_index,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(map(convert.logprobs_from_pb, logprobs)) if logprobs else (),
        end=End(message.end) if message.HasField("end") else None,
    )
