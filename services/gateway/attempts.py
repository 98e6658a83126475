"""One submission under way: what joins a request to a link for a while."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from baton.errors import BatonError
from services.gateway.frames import Delta, Submission
from services.gateway.later import later
from services.gateway.links import DecodeLink

if TYPE_CHECKING:
    from services.gateway.requests import Request


class Stay(Protocol):
    """What is promised to workers for a submission."""

    def computed(self) -> None:
        """Its prompt is computed. Idempotent."""

    def release(self) -> None:
        """It is over. Idempotent."""


class Attempt:
    """One submission under way. `open` are the samples that are still this attempt's to finish."""

    def __init__(
        self, request: Request, link: DecodeLink, samples: Iterable[int], stay: Stay
    ) -> None:
        self.worker_id = link.worker_id
        self.open = set(samples)
        self._request = request
        self._link = link
        self._stay = stay
        self._has_answer = False
        self._handle = 0

    def begin(self, submission: Submission) -> None:
        """Submits. Raises `WorkerLost` if its link is down."""
        try:
            self._handle = self._link.submit(submission, self)
        except BatonError:
            self._stay.release()
            raise

    def on_delta(self, delta: Delta) -> None:
        """News from the worker; those of samples that have moved on are ignored."""
        is_open = delta.sample_index in self.open
        if is_open and delta.end is not None:
            # First, so that a request's end does not ask the worker to end what has ended.
            self.open.discard(delta.sample_index)
        if delta.end is not None or not self._has_answer:
            self._has_answer = True
            later(self._settle)
        if is_open:
            try:
                self._request.on_delta(self, delta)
            except Exception:
                self.open.add(delta.sample_index)  # its end was not taken in: `on_lost` follows
                raise

    def on_lost(self, error: BatonError) -> None:
        """The stream broke under all samples that are still open."""
        self._stay.release()
        lost, self.open = sorted(self.open), set()
        self._request.on_lost(self, lost, error)

    def _settle(self) -> None:
        """The prompt is computed; behind the last sample the worker's news are of no interest."""
        if self.open:
            self._stay.computed()
        else:
            self._stay.release()
            self._link.forget(self._handle)

    def cancel(self, sample_index: int | None = None) -> None:
        """Asks the worker to end one sample, or all of them without waiting for its answer."""
        self._link.cancel(self._handle, sample_index)
        if sample_index is None:
            self.open.clear()
            self._stay.release()
            self._link.forget(self._handle)
