"""All sequences of this decode worker: from submission to the one end each of them has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from baton import convert, errors
from baton.engine.engine import Engine
from baton.engine.types import Finished, NewToken, Reserved, SequenceSpec, StepOutput
from baton.request import FinishReason, PrefillMode, SamplingParams, SequenceTimings
from baton.rpc import logs
from baton.tokens import TOKEN_BYTES, TokenIds
from baton.v1 import decode_pb2 as pb
from baton.worker.host import EngineHost
from services.decode import metrics
from services.decode.arrival import ArrivalPlan, Arrivals, StartOver
from services.decode.frames import SampleNews
from services.decode.prefill_link import PrefillPeer
from services.decode.spans import SampleSpans

log = logs.get_logger(__name__)

MAX_SAMPLES = 128
"""Of one submission; gateways allow no more."""

Send = Callable[[SampleNews], None]


@dataclass(slots=True)
class Sample:
    """One sequence, as its gateway knows it: (handle, index)."""

    handle: int
    spec: SequenceSpec
    request_id: str
    send: Send
    spans: SampleSpans
    timings: SequenceTimings = field(default_factory=SequenceTimings)
    submitted_at: float = field(default_factory=time.monotonic)
    first_token_at: float | None = None
    plan: ArrivalPlan | None = None
    """What is to be brought once its blocks are reserved."""
    task: asyncio.Task[None] | None = None
    """Makes its guide's matcher, then brings its blocks."""
    is_added: bool = False
    """Whether the engine has heard of it: until then we end it ourselves."""
    is_arriving: bool = False
    """Whether its blocks are being brought: from then on the task sees to their release."""
    expiry: asyncio.TimerHandle | None = None
    end_error: errors.BatonError | None = None
    """Why we ended it ourselves."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    sequence_id: str
    error: Exception


# A label's lookup costs more than its count.
_ended = {reason: metrics.sequences.labels(reason.name.lower()) for reason in FinishReason}
_first_token_seconds = {
    mode: metrics.first_token_seconds.labels(mode.name.lower()) for mode in PrefillMode
}


class Sequences:
    """Starts, feeds and ends samples. Lives on the event loop."""

    def __init__(self, host: EngineHost, arrivals: Arrivals, *, max_sequences: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._host = host
        self._arrivals = arrivals
        self._max_sequences = max_sequences
        self._samples: dict[str, Sample] = {}
        metrics.running.set_function(lambda: len(self._samples))
        host.subscribe(self._deliver)
        host.on_failure(self._fail_all)

    def __len__(self) -> int:
        return len(self._samples)

    def submit(self, stream_id: str, message: pb.SubmitSequence, send: Send) -> None:
        """Starts all samples of a submission. What goes wrong is sent as their end."""
        try:
            names = self._names(stream_id, message)
            token_ids, sampling = _read(message)
        except errors.InvalidRequest as error:
            log.error("submission refused", request_id=message.request_id, error=error.message)
            send(_refusal(message, error))
            return
        peer = None
        if message.prefill_worker_id:
            peer = PrefillPeer(message.prefill_worker_id, message.prefill_address)
        is_wanted = self._arrivals.wants(peer)
        for offset, name in enumerate(names):
            spec = SequenceSpec(
                sequence_id=name,
                token_ids=token_ids,
                prompt_len=message.prompt_len,
                sampling=sampling,
                sample_index=message.sample_index + offset,
                cache_salt=message.cache_salt,
                priority=message.priority,
                after=names[0] if offset else None,
                receive=is_wanted and not offset,
            )
            spans = SampleSpans(message.request_id, message.traceparent)
            sample = Sample(message.handle, spec, message.request_id, send, spans)
            self._start(sample, peer, message.timeout_ms / 1000)

    def _names(self, stream_id: str, message: pb.SubmitSequence) -> list[str]:
        """Ids for the samples. Refuses what no gateway of ours sends, before it costs anything."""
        if message.sample_count > MAX_SAMPLES:
            raise errors.InvalidRequest(
                f"sample_count is {message.sample_count}; at most {MAX_SAMPLES} are taken",
                field="sample_count",
            )
        handle, first = message.handle, message.sample_index
        stop = first + max(1, message.sample_count)
        names = [f"{stream_id}/{handle}/{index}" for index in range(first, stop)]
        if not self._samples.keys().isdisjoint(names):
            raise errors.InvalidRequest(
                f"handle {handle} is in use; handles are never reused", field="handle"
            )
        return names

    def cancel(self, stream_id: str, handle: int, sample_index: int | None) -> None:
        """Ends one sample, or all samples of a handle."""
        prefix = f"{stream_id}/{handle}/"
        for sequence_id, sample in list(self._samples.items()):
            is_meant = sample_index is None or sample.spec.sample_index == sample_index
            if sequence_id.startswith(prefix) and is_meant:
                self._cancel(sample)

    def cancel_stream(self, stream_id: str) -> None:
        """Ends all samples of a gateway that is gone."""
        gone = [sample for key, sample in self._samples.items() if key.startswith(f"{stream_id}/")]
        if gone:
            log.warning("gateway left with sequences running", count=len(gone))
        for sample in gone:
            self._cancel(sample)

    def _cancel(self, sample: Sample) -> None:
        if sample.is_added:
            self._host.post(Engine.cancel, sample.spec.sequence_id)
        else:
            is_ours = sample.end_error is not None
            reason = FinishReason.ERROR if is_ours else FinishReason.CANCELLED
            self._end(sample, reason, sample.end_error)

    def _fail_all(self, error: BaseException) -> None:
        """Ends all samples: the engine is gone. Gateways move them to other workers."""
        for sample in list(self._samples.values()):
            failure = errors.EngineFailed(f"the engine broke down: {error}")
            self._end(sample, FinishReason.ERROR, failure)

    def _start(self, sample: Sample, peer: PrefillPeer | None, timeout_s: float) -> None:
        sequence_id = sample.spec.sequence_id
        if len(self._samples) >= self._max_sequences:
            limit = f"this worker has {len(self._samples)} sequences, the limit"
            self._end(sample, FinishReason.ERROR, errors.Overloaded(limit, retry_after_s=1.0))
            return
        self._samples[sequence_id] = sample
        sample.expiry = self._loop.call_later(timeout_s, self._expire, sample, timeout_s)
        if sample.spec.receive:
            deadline = time.monotonic() + timeout_s
            trace = sample.spans.traceparent
            sample.plan = ArrivalPlan(sample.request_id, trace, sample.spec, peer, deadline)
        if sample.spec.sampling.guide is None:
            self._add(sample)
        else:
            sample.task = asyncio.create_task(self._add_guided(sample))

    async def _add_guided(self, sample: Sample) -> None:
        """As `_add`, once the guide's matcher is made."""
        logs.bind(request_id=sample.request_id, trace_id=sample.spans.trace_id)
        try:
            sample.spec = await self._host.guided(sample.spec)
        except errors.BatonError as error:
            self._end(sample, FinishReason.ERROR, error)
        except Exception as error:
            log.exception("a guide could not be prepared")
            failure = errors.EngineFailed(f"the guide could not be prepared: {error}")
            self._end(sample, FinishReason.ERROR, failure)
        else:
            if sample.plan is not None:
                sample.plan = replace(sample.plan, spec=sample.spec)
            self._add(sample)

    def _add(self, sample: Sample) -> None:
        sample.is_added = True
        if not self._host.post(self._add_to, sample.spec):
            self._end(sample, FinishReason.ERROR, errors.EngineFailed("the engine has ended"))

    def _add_to(self, engine: Engine, spec: SequenceSpec) -> None:
        """On the engine's thread: no future for each sequence, almost all of them are taken."""
        try:
            engine.add(spec)
        except Exception as error:
            self._host.reply(self._refuse, _Refusal(spec.sequence_id, error))

    def _refuse(self, refusal: _Refusal) -> None:
        """The engine did not take a sequence."""
        sample, error = self._samples.get(refusal.sequence_id), refusal.error
        if sample is None:
            return
        if not isinstance(error, errors.BatonError):
            log.error("adding a sequence failed", exc_info=error, request_id=sample.request_id)
            self._host.post(Engine.cancel, refusal.sequence_id)
            error = errors.EngineFailed(f"adding the sequence failed: {error}")
        self._end(sample, FinishReason.ERROR, error)

    async def _arrive(self, sample: Sample, plan: ArrivalPlan, reserved: Reserved) -> None:
        """Brings the sequence's KV into its blocks."""
        sample.is_arriving = True
        logs.bind(request_id=sample.request_id, trace_id=sample.spans.trace_id)
        try:
            await self._arrivals.bring(plan, reserved, sample.timings)
        except StartOver:
            self._start_over(sample)
        except errors.BatonError as error:
            self._end(sample, FinishReason.ERROR, error)
        except Exception as error:
            log.exception("arrival failed")
            self._host.post(Engine.cancel, sample.spec.sequence_id)
            self._end(sample, FinishReason.ERROR, errors.EngineFailed(f"arrival failed: {error}"))

    def _start_over(self, sample: Sample) -> None:
        """Runs the sequence with other blocks; the old ones stay in quarantine.

        Its matcher goes along: no token has come that could have moved it.
        """
        old_id = sample.spec.sequence_id
        del self._samples[old_id]
        self._host.post(Engine.cancel, old_id)
        sample.spec = replace(sample.spec, sequence_id=f"{old_id}/again", receive=False)
        self._samples[sample.spec.sequence_id] = sample
        self._host.post(Engine.add, sample.spec)

    def _expire(self, sample: Sample, timeout_s: float) -> None:
        sample.end_error = errors.DeadlineExceeded(f"the request's {timeout_s:.1f} s are over")
        self._cancel(sample)

    def _deliver(self, output: StepOutput) -> None:
        for reserved in output.reserved:
            sample = self._samples.get(reserved.sequence_id)
            if sample and sample.plan:
                sample.spans.mark("reserved")
                sample.task = asyncio.create_task(self._arrive(sample, sample.plan, reserved))
        for token in output.tokens:
            if sample := self._samples.get(token.sequence_id):
                self._take_token(sample, token)
        for finished in output.finished:
            if sample := self._samples.get(finished.sequence_id):
                self._take_finished(sample, finished)

    def _take_token(self, sample: Sample, token: NewToken) -> None:
        sample.send(SampleNews(sample.handle, sample.spec.sample_index, token))
        if sample.first_token_at is None:
            sample.first_token_at = time.monotonic()
            sample.spans.mark("first token")
            self._loop.call_soon(_observe_first_token, sample)

    def _take_finished(self, sample: Sample, finished: Finished) -> None:
        stats, timings = finished.stats, sample.timings
        timings.queue_us = stats.queue_us
        timings.decode_us = stats.decode_us
        timings.preemption_count = stats.num_preemptions
        timings.cached_token_count = max(timings.cached_token_count, stats.num_cached_tokens)
        if timings.prefill_mode is not PrefillMode.REMOTE:
            timings.prefill_us = stats.prefill_us
        error: errors.BatonError | None = sample.end_error
        reason = finished.reason
        if reason is FinishReason.ERROR and finished.field:
            # Another engine would say the same.
            error = errors.InvalidRequest(finished.error, field=finished.field)
        elif reason is FinishReason.ERROR:
            error = errors.EngineFailed(finished.error)
        elif reason is FinishReason.CANCELLED and error is not None:
            reason = FinishReason.ERROR
        elif reason is not FinishReason.CANCELLED:
            error = None  # it ended by itself just before we would have ended it
        self._end(sample, reason, error)

    def _end(
        self, sample: Sample, reason: FinishReason, error: errors.BatonError | None = None
    ) -> None:
        """Sends the sample's one end."""
        self._samples.pop(sample.spec.sequence_id, None)
        if sample.expiry is not None:
            sample.expiry.cancel()
        if sample.task is not None and sample.task is not asyncio.current_task():
            sample.task.cancel()
            if not sample.is_arriving:
                self._host.post(Engine.release, sample.spec.sequence_id)
        self._loop.call_soon(_book_end, sample, reason, error)
        end = pb.SequenceEnd(
            finish_reason=convert.finish_to_pb(reason),
            error=convert.error_to_pb(error) if error else None,
            timings=convert.timings_to_pb(sample.timings),
        )
        sample.send(SampleNews(sample.handle, sample.spec.sample_index, end))


def _read(message: pb.SubmitSequence) -> tuple[TokenIds, SamplingParams]:
    """Raises `InvalidRequest` for what no gateway of ours sends."""
    packed = message.token_ids
    if len(packed) % TOKEN_BYTES:
        raise errors.InvalidRequest(
            f"token_ids has {len(packed)} bytes; token ids take {TOKEN_BYTES} each",
            field="token_ids",
        )
    try:
        return TokenIds(packed), convert.sampling_from_pb(message.sampling)
    except ValueError as error:
        raise errors.InvalidRequest(str(error), field="guide.kind") from error


# Counted behind the writers of streams, which the news have woken.
def _observe_first_token(sample: Sample) -> None:
    assert sample.first_token_at is not None
    waited_s = sample.first_token_at - sample.submitted_at
    _first_token_seconds[sample.timings.prefill_mode].observe(waited_s)


def _book_end(sample: Sample, reason: FinishReason, error: errors.BatonError | None) -> None:
    _ended[reason].inc()
    sample.spans.end(sample.timings, error.message if error else "")


def _refusal(message: pb.SubmitSequence, error: errors.BatonError) -> SampleNews:
    end = pb.SequenceEnd(
        finish_reason=convert.finish_to_pb(FinishReason.ERROR), error=convert.error_to_pb(error)
    )
    return SampleNews(message.handle, message.sample_index, end)
