"""Whether to fetch blocks from kvstore or to compute them again."""

from __future__ import annotations

from dataclasses import dataclass

KEPT_SHARE = 0.8
"""Weight of the past against a new measurement: about the last five count."""
RELAXED_SHARE = 0.02
"""A step towards the prior, in orders of magnitude: 115 of them go nine tenths of the way."""


class Rate:
    """Amount per second, learnt from measurements.

    Sums of amounts and of seconds fade alike, so that a large measurement counts for more than a
    small one. The prior counts as one measurement of `prior_s` seconds.
    """

    def __init__(self, prior: float, prior_s: float = 0.01) -> None:
        if prior <= 0 or prior_s <= 0:
            raise ValueError(f"a rate's prior is positive, not {prior} over {prior_s} s")
        self.prior = prior
        self._prior_s = prior_s
        self._amount = prior * prior_s
        self._seconds = prior_s

    @property
    def per_second(self) -> float:
        """The estimate."""
        return self._amount / self._seconds

    def observe(self, amount: float, seconds: float) -> None:
        """Learns from one measurement; such of nothing, or in no time, teach nothing."""
        if amount > 0 and seconds > 0:
            self._amount = KEPT_SHARE * self._amount + amount
            self._seconds = KEPT_SHARE * self._seconds + seconds

    def fade(self, share: float) -> None:
        """What was measured so far weighs only this share of what it did; the estimate stays."""
        self._amount *= share
        self._seconds *= share

    def relax(self) -> None:
        """Moves a step towards the prior: what is not measured any more deserves another chance."""
        estimate = self.per_second ** (1.0 - RELAXED_SHARE) * self.prior**RELAXED_SHARE
        self._amount, self._seconds = estimate * self._prior_s, self._prior_s


@dataclass(frozen=True, slots=True)
class FetchRates:
    """What a prediction is made from."""

    fetch_bytes_per_s: float
    fetch_latency_s: float
    """What a fetch costs whatever its size."""
    compute_tokens_per_s: float


@dataclass(frozen=True, slots=True)
class FetchDecision:
    """Whether to fetch, and the two predictions behind it."""

    should_fetch: bool
    fetch_ms: float
    compute_ms: float


def should_fetch(
    num_missing_blocks: int, block_bytes: int, block_size: int, rates: FetchRates
) -> FetchDecision:
    """Fetching pays only if it is predicted to take less time than computing."""
    num_bytes = num_missing_blocks * block_bytes
    fetch_ms = 1e3 * (rates.fetch_latency_s + num_bytes / rates.fetch_bytes_per_s)
    compute_ms = 1e3 * num_missing_blocks * block_size / rates.compute_tokens_per_s
    return FetchDecision(num_missing_blocks > 0 and fetch_ms < compute_ms, fetch_ms, compute_ms)


class FetchPolicy:
    """Decides by what one worker has measured so far.

    Priors: 500 MB/s (a gRPC byte stream between two busy processes) behind 2 ms, and 5,000
    tokens/s: a CPU is slower, a GPU faster, and both are measured with the first prompt.
    """

    def __init__(
        self,
        *,
        fetch_bytes_per_s: float = 500e6,
        fetch_latency_s: float = 0.002,
        compute_tokens_per_s: float = 5000.0,
    ) -> None:
        self.fetch = Rate(fetch_bytes_per_s)
        self.compute = Rate(compute_tokens_per_s)
        self.latency_s = fetch_latency_s

    def decide(self, num_missing_blocks: int, block_bytes: int, block_size: int) -> FetchDecision:
        """Whether to fetch; refusals relax the rate, so that one slow fetch is not the last."""
        rates = FetchRates(self.fetch.per_second, self.latency_s, self.compute.per_second)
        decision = should_fetch(num_missing_blocks, block_bytes, block_size, rates)
        if num_missing_blocks > 0 and not decision.should_fetch:
            self.fetch.relax()
        return decision

    def observe_fetch(self, num_bytes: int, seconds: float) -> None:
        """A fetch took this long, latency included."""
        self.fetch.observe(num_bytes, max(seconds - self.latency_s, 1e-6))

    def observe_compute(self, num_tokens: int, seconds: float) -> None:
        """Computing prompt tokens took this long."""
        self.compute.observe(num_tokens, seconds)
