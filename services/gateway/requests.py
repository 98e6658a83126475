"""One request on the event loop: fed by links, read by its client, ended exactly once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from baton.errors import BatonError, DeadlineExceeded, WorkerLost
from baton.request import FinishReason, PrefillMode
from baton.text import ModelText
from services.gateway import metrics
from services.gateway.attainment import Attainment
from services.gateway.attempts import Attempt
from services.gateway.frames import Delta, End, Submission
from services.gateway.halls import Ticket
from services.gateway.later import later
from services.gateway.mailbox import Mailbox
from services.gateway.samples import Sample
from services.gateway.traces import RequestTrace
from services.gateway.types import Chunk, Final, GenerateCommand

LINGER_SECONDS = 1.0
"""How long a request's end waits for the timings of a sample that a stop string ended."""


class Keeper(Protocol):
    """Who looks after requests."""

    def on_trouble(self, request: Request, sample: Sample, error: BatonError) -> None:
        """A worker does not finish this sample: move it, or fail the request."""

    def on_fallback(self, prefill_worker_id: str) -> None:
        """A decode worker did a prefill worker's part itself."""


class Request:
    """A request from admission to its one end: a `Final` or an error.

    Everything but reading `mailbox` happens in calls that do not wait, so there is no order of
    events in which two ends could be told.
    """

    def __init__(
        self,
        command: GenerateCommand,
        text: ModelText,
        context_len: int,
        keeper: Keeper,
        mailbox: Mailbox,
    ) -> None:
        now = time.monotonic()
        self.command = command
        self.context_len = context_len
        self.arrived_at = command.arrived_at or now
        self.deadline = self.arrived_at + command.timeout_s
        self.left_at = 0.0
        """When its client had all of it, or had left."""
        self.samples = [Sample(index, text, command) for index in range(command.sample_count)]
        self.mailbox = mailbox
        self.failure: BatonError | None = None
        self.is_told = False
        """Whether its final is on its way to the client."""
        self.has_failed_engine = False
        self.route_us = 0
        self.ticket: Ticket | None = None
        """Its place among those admitted; None: admission is off."""
        self.trace = RequestTrace(command, self.arrived_at)
        self._keeper = keeper
        self._attempts: set[Attempt] = set()
        self._is_over = False
        self._attainment: Attainment | None = None
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(max(self.deadline - now, 0.0), self.expire)
        self._linger: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether the end is decided: nothing more is asked of workers."""
        return self._is_over

    @property
    def first_write_at(self) -> float:
        """When the first chunk was on its way to the client; 0: none has been."""
        return self.mailbox.first_taken_at

    @property
    def num_output_tokens(self) -> int:
        """Tokens of all samples."""
        return sum([len(sample.token_ids) for sample in self.samples])

    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens that were not computed for this request."""
        return min(map(self._num_cached, self.samples))

    @property
    def attainment(self) -> Attainment:
        """What was measured of it, once it is over."""
        if self._attainment is None:
            self._attainment = Attainment.of(self)
        return self._attainment

    def begin(self, attempt: Attempt, submission: Submission) -> None:
        """Sends samples to a worker. Raises `WorkerLost` if its link is down."""
        attempt.begin(submission)
        self._attempts.add(attempt)
        for index in attempt.open:
            self.samples[index].worker_id = attempt.worker_id
        self.trace.submitted(attempt.worker_id)
        later(self._get_ready)

    def _get_ready(self) -> None:
        """For what the worker will send, while it computes."""
        for sample in self.samples:
            sample.get_ready()

    def on_delta(self, attempt: Attempt, delta: Delta) -> None:
        """A worker's news of one sample."""
        if self._is_over:
            return
        sample = self.samples[delta.sample_index]
        if delta.end is not None:
            self._on_end(sample, delta)
            return
        chunk = sample.take(delta)
        if chunk is not None:
            self.tell(sample, chunk)
        if sample.finish_reason is not None:  # a stop string has ended it
            attempt.cancel(sample.index)
            self._wait_a_little()

    def _on_end(self, sample: Sample, delta: Delta) -> None:
        """A worker's last news of one sample."""
        assert delta.end is not None
        trouble = self._trouble(sample, delta.end)
        chunk = sample.take(delta if trouble is None else replace(delta, end=None))
        if chunk is not None:
            self.tell(sample, chunk)
        if trouble is not None and not sample.is_finished:
            self._keeper.on_trouble(self, sample, trouble)
            self._wait_a_little()
        else:
            later(self._conclude, sample, delta.end)

    def on_lost(self, attempt: Attempt, indices: Iterable[int], error: BatonError) -> None:
        """A worker is gone; some samples were its to finish."""
        self._attempts.discard(attempt)
        for index in indices:
            sample = self.samples[index]
            if self._is_over:
                return
            if sample.is_finished:
                self.close(sample)
            else:
                self._keeper.on_trouble(self, sample, error)

    def tell(self, sample: Sample, chunk: Chunk) -> None:
        """Puts a chunk in front of the client."""
        now = time.monotonic()
        if not sample.first_token_at:
            self.trace.answered()
            sample.first_token_at = now
            if self.ticket is not None:
                later(self.ticket.started, now)
        elif chunk.token_ids:
            metrics.inter_token.observe((now - sample.last_token_at) / len(chunk.token_ids))
        sample.last_token_at = now
        self.mailbox.put(chunk)

    def close(self, sample: Sample) -> None:
        """The sample needs no worker any more; with the last one the request ends well."""
        sample.is_closed = True
        if all(other.is_closed for other in self.samples):
            self._end(None)

    def fail(self, error: BatonError) -> None:
        """Ends the request with an error, unless it has ended."""
        if not self._is_over:
            self.failure = error
            self._end(error)

    def expire(self) -> None:
        """The deadline has come."""
        if all(sample.is_finished for sample in self.samples):
            self._end(None)
        else:
            self.fail(self._deadline_exceeded())

    def abandon(self) -> None:
        """Ends whatever still runs: the client has all it wanted, or has left."""
        self._end(None)

    def final(self) -> Final:
        """The last message of a request that ended well."""
        now = time.monotonic()
        first_write_at = self.first_write_at or now
        attainment = self.attainment
        return Final(
            request_id=self.command.request_id,
            model=self.command.model,
            num_prompt_tokens=len(self.command.token_ids),
            num_output_tokens=self.num_output_tokens,
            num_cached_tokens=self.num_cached_tokens,
            samples=tuple(sample.summary() for sample in self.samples),
            ttft_us=_microseconds(first_write_at - self.arrived_at),
            total_us=_microseconds(now - self.arrived_at),
            tokenize_us=self.command.tokenize_us,
            route_us=self.route_us,
            seed=self.command.sampling.seed,
            trace_id=self.trace.trace_id,
            mean_itl_us=_microseconds(attainment.mean_itl_s or 0.0),
            ttft_met=attainment.ttft_met,
            itl_met=attainment.itl_met,
        )

    def _trouble(self, sample: Sample, end: End | None) -> BatonError | None:
        """Why this end is not one that a client should see; None when it is."""
        if end is None or end.reason in (FinishReason.STOP, FinishReason.LENGTH):
            return None
        if sample.is_finished:  # we asked for this end, or no longer care
            return None
        if end.reason is FinishReason.ERROR:
            return end.error
        if time.monotonic() > self.deadline - 0.1:  # the worker's clock was first
            return self._deadline_exceeded()
        return WorkerLost("a decode worker cancelled a sample that nobody had cancelled")

    def _conclude(self, sample: Sample, end: End) -> None:
        """The client has been told all of a sample; now its worker's part is over, too."""
        sample.timings = timings = end.timings
        if timings.prefill_mode is PrefillMode.FALLBACK:
            self.trace.event("prefill fell back")
            self._keeper.on_fallback(timings.prefill_worker_id)
        self.close(sample)
        self._wait_a_little()

    def _num_cached(self, sample: Sample) -> int:
        timings = sample.timings
        at_decode = timings.cached_token_count + timings.fetched_token_count
        # A migrated sample may find tokens behind its prompt in a cache.
        num_cached = max(at_decode, timings.prefill_cached_token_count)
        return min(num_cached, len(self.command.token_ids))

    def _wait_a_little(self) -> None:
        is_due = self._linger is None and not self._is_over
        if is_due and all(sample.is_finished for sample in self.samples):
            loop = asyncio.get_running_loop()
            self._linger = loop.call_later(LINGER_SECONDS, self._end, None)

    def _deadline_exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the request's {self.command.timeout_s:g} s are over; "
            f"{self.num_output_tokens} tokens had been drawn"
        )

    def _end(self, error: BatonError | None) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._alarm.cancel()
        if self.ticket is not None:
            self.ticket.leave(self.num_output_tokens)
        if self._linger is not None:
            self._linger.cancel()
        for attempt in self._attempts:
            if attempt.open:
                attempt.cancel()
        self._attempts.clear()
        self.mailbox.close(error)


def _microseconds(seconds: float) -> int:
    return max(round(seconds * 1e6), 0)
