"""What a client's clock says about one answer and about many.

ITL is the gap between two chunks as the client reads them: a chunk of several tokens is one gap, so
coalescing makes ITL worse, not better, as in the clients of vLLM and InferenceX. Chunks that came
in one burst, having waited for each other on the way, count as one chunk too: otherwise a stutter
would show as many tiny gaps and a good median. TPOT spreads an answer's time over its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy

BURST_S = 0.0005
"""Chunks in hand within this time of the first are one burst: no engine steps so fast here."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One chunk, at the moment the client had it in hand."""

    at: float
    """Seconds of the monotonic clock."""
    num_tokens: int


@dataclass(slots=True)
class Answer:
    """One request as its client saw it; incomplete until its last chunk is in."""

    sent: float
    """Just before the request is written, after waiting for a place among those in flight."""
    arrivals: list[Arrival] = field(default_factory=list)

    def take(self, at: float, num_tokens: int) -> None:
        """Notes a chunk. One without tokens is no arrival: it must not stop the TTFT's clock."""
        if num_tokens:
            self.arrivals.append(Arrival(at, num_tokens))

    @property
    def num_tokens(self) -> int:
        """Tokens so far."""
        return sum(arrival.num_tokens for arrival in self.arrivals)

    @property
    def ttft_s(self) -> float:
        """From sending to the first chunk that holds a token."""
        return self.arrivals[0].at - self.sent

    @property
    def burst_times(self) -> list[float]:
        """When each burst began; mostly a burst is a chunk."""
        times: list[float] = []
        for arrival in self.arrivals:
            if not times or arrival.at - times[-1] >= BURST_S:
                times.append(arrival.at)
        return times

    @property
    def gaps_s(self) -> list[float]:
        """ITL: from each burst to the next."""
        return [later - earlier for earlier, later in pairwise(self.burst_times)]

    @property
    def tpot_s(self) -> float | None:
        """(last chunk - first chunk) / (tokens - 1); None below two tokens."""
        rest = self.num_tokens - 1
        return (self.arrivals[-1].at - self.arrivals[0].at) / rest if rest > 0 else None


def gaps_between(answers: Iterable[Answer], start: float, stop: float) -> list[float]:
    """The gaps that ended in a span of time."""
    return [
        later - earlier
        for answer in answers
        for earlier, later in pairwise(answer.burst_times)
        if start <= later < stop
    ]


def tokens_between(answers: Iterable[Answer], start: float, stop: float) -> int:
    """Tokens that came in a span of time."""
    arrivals = (arrival for answer in answers for arrival in answer.arrivals)
    return sum(arrival.num_tokens for arrival in arrivals if start <= arrival.at < stop)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear between the two nearest values; None of nothing."""
    return float(numpy.percentile(values, percent)) if values else None


def milliseconds(values: Sequence[float], percent: float) -> float | None:
    """A percentile of seconds, in milliseconds."""
    found = percentile(values, percent)
    return None if found is None else found * 1e3


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Ours over theirs; None where either is missing or there is nothing to divide by."""
    return ours / theirs if ours is not None and theirs else None
