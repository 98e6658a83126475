"""Whether a request may go to the workers now, how long it would wait, and if that is too long.

All of it is measured where it is used: how fast queued work drains, how long prompts take once they
were sent, how far earlier predictions were off. Times are seconds on any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

from baton.policy.drain import Drain
from baton.policy.fetch import Rate

OUTPUT_WEIGHT = 2.0
"""A token of the answer costs as much as so many of the prompt; the virtual token counter's weights
(Sheng et al., 2024)."""
TARGET_SHARE = 0.95
"""Of its target that a request may be predicted to take: the rest is for what nobody foresees."""
FIXED_TOKENS = 64.0
"""What a first token costs whatever the prompt's length, in prompt tokens."""
LEARNING_SHARE = 0.05
"""Weight of one request in the means of answers, cached shares and prediction errors."""
MIN_BIAS, MAX_BIAS = 0.5, 4.0
"""Predicted waits are corrected by no more than this."""
MAX_FLOWS = 1024
"""Tenants and bands whose predictions are corrected; the one unseen for longest is forgotten."""
MIN_RETRY_S, MAX_RETRY_S = 0.25, 60.0
MAX_ERROR = 0.5
"""Of a predicted start, added to it: a first token that comes late by more counts as this."""
LONGEST_KEPT = 255 / 256
"""Of the longest prompt of late, with each request: a hundred later it counts for two thirds."""
FULL_SHARE = 0.1
"""Of requests refused, from which on a line counts as always full."""
WORTH_LEARNING_S = 0.05
"""Shorter waits teach nothing about longer ones."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What the workers of a model take at a time, the part that other gateways use left out."""

    num_workers: int = 1
    """Those that compute prompts."""
    num_sequences: int = 72
    """Sequences in flight: those of an engine step and an eighth that is about to begin."""
    num_tokens: float = 1024.0
    """Prompt tokens sent and not computed: enough that no worker is idle between two steps."""
    tokens_per_s: float = 0.0
    """Prompt tokens that one worker computes, by what the workers have learnt; 0: nothing yet."""
    tenants: Mapping[str, float] | None = None
    """By what tenants' weights count here while other gateways have lines; None: they have none."""


# Not frozen: two are made per request, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Demand:
    """What a request is expected to need. Nobody changes one."""

    num_sequences: int
    num_tokens: float
    """Prompt tokens to compute."""
    num_outputs: float
    """Of all its sequences."""

    @property
    def cost(self) -> float:
        """In prompt tokens: what fairness counts, and what drains."""
        return self.num_tokens + OUTPUT_WEIGHT * self.num_outputs


# Not frozen: changed with every request.
@dataclass(slots=True)
class Occupancy:
    """What is in flight."""

    num_sequences: int = 0
    num_starting: int = 0
    """Requests without a first token."""
    num_tokens: float = 0.0
    """Prompt tokens that these were sent with."""

    def fits(self, demand: Demand, pool: Pool) -> bool:
        """Whether a request may go now. One always may: nothing is too large for an idle pool."""
        if self.num_sequences == 0:
            return True
        if self.num_sequences + demand.num_sequences > pool.num_sequences:
            return False
        is_idle = self.num_starting < pool.num_workers
        return is_idle or self.num_tokens + demand.num_tokens <= pool.num_tokens


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request may go without its first token, in seconds from its arrival."""

    target_s: float
    """Its own target or its class's; infinite: it has none."""
    default_s: float
    """The gateway's, for targets that even an idle pool would miss."""

    def limit_s(self, alone_s: float) -> float:
        """What it may be predicted to take, when it would take `alone_s` in an idle pool."""
        for limit_s in (self.target_s, self.default_s):
            if alone_s <= TARGET_SHARE * limit_s:
                return TARGET_SHARE * limit_s
        return 2.0 * alone_s


class Forecast:
    """What one pool has shown so far. What was not measured takes no time: nobody is refused on a
    guess.
    """

    def __init__(self) -> None:
        self.drain = Drain()
        self._start: Rate | None = None
        self._start_error = 0.0
        self._uncached_share = 1.0
        self._mean_outputs = 0.0
        self._longest = 0.0
        self._refused_share = 0.0
        self._biases: dict[tuple[str, int], float] = {}

    def demand(
        self, num_prompt_tokens: int, num_sequences: int, max_tokens: int, expected: int = 0
    ) -> Demand:
        """What a request will need; `expected`: tokens of an answer as its client says, or 0."""
        num_outputs = float(min(expected or self._mean_outputs or max_tokens, max_tokens))
        return Demand(
            num_sequences, self._uncached_share * num_prompt_tokens, num_outputs * num_sequences
        )

    def start_s(self, num_tokens: float, num_ahead: float, num_workers: int) -> float:
        """From being sent to the first token, behind so many tokens over all workers."""
        if self._start is None:
            return 0.0
        work = FIXED_TOKENS + num_tokens + num_ahead / max(1, num_workers)
        return (1.0 + self._start_error) * work / self._start.per_second

    def reserve_s(self, num_tokens: float, wait_s: float) -> float:
        """What a request that would wait so long leaves to longer ones of the time it may take.

        A line that is always full is as long as the shortest may still join it, and long ones
        would never get in. So nobody joins where the longest of late would come too late. Who
        hardly waits, as a tenant with little in line, leaves as little.
        """
        longer = self._longest - num_tokens
        if self._start is None or longer <= 0:
            return 0.0
        later_s = (1.0 + self._start_error) * longer / self._start.per_second
        fullness = min(self._refused_share / FULL_SHARE, 1.0)
        return fullness * min(later_s, wait_s)

    def judged(self, num_tokens: float, is_refused: bool) -> None:
        """A request of so many prompt tokens has come, and may stay or not."""
        self._longest = max(LONGEST_KEPT * self._longest, num_tokens)
        self._refused_share += LEARNING_SHARE * (is_refused - self._refused_share)

    def told(self, tokens_per_s: float) -> None:
        """Workers say that one of them computes so much; counts until first tokens have come."""
        if self._start is None and tokens_per_s > 0:
            self._start = Rate(tokens_per_s)

    def wait_s(self, tenant: str, band: int, work_ahead: float) -> float:
        """Until so much work that is served first has been; 0 while nothing was measured."""
        per_second = self.drain.per_second
        if not per_second:
            return 0.0
        bias = self._biases.get((tenant, band), 0.0)
        return exp(bias) * work_ahead / per_second

    def placed(self, num_prompt_tokens: int, num_uncached: int) -> None:
        """So many of a prompt's tokens were cached nowhere."""
        share = min(num_uncached / max(1, num_prompt_tokens), 1.0)
        self._uncached_share += LEARNING_SHARE * (share - self._uncached_share)

    def started(
        self, num_tokens: float, num_ahead: float, num_workers: int, seconds: float
    ) -> None:
        """A first token came so long after its request was sent."""
        if seconds <= 0:
            return
        work = FIXED_TOKENS + num_tokens + num_ahead / max(1, num_workers)
        if self._start is None:
            self._start = Rate(work / seconds)
        error = min(abs(seconds * self._start.per_second / work - 1.0), MAX_ERROR)
        self._start_error += LEARNING_SHARE * (error - self._start_error)
        self._start.observe(work, seconds)

    def ended(self, num_outputs: int) -> None:
        """One answer had so many tokens."""
        share = LEARNING_SHARE if self._mean_outputs else 1.0
        self._mean_outputs += share * (num_outputs - self._mean_outputs)

    def waited(self, tenant: str, band: int, predicted_s: float, seconds: float) -> None:
        """A wait was over, or given up, after so long."""
        if predicted_s < WORTH_LEARNING_S:
            return
        key = (tenant, band)
        bias = self._biases.pop(key, 0.0)  # the newest is last
        ratio = min(max(seconds / predicted_s, 0.25), 4.0)
        bias += 2 * LEARNING_SHARE * log(ratio)
        self._biases[key] = min(max(bias, log(MIN_BIAS)), log(MAX_BIAS))
        if len(self._biases) > MAX_FLOWS:
            del self._biases[next(iter(self._biases))]

    def refused(self) -> None:
        """Nothing is learnt from a request that isn't sent: the next ones get another chance."""
        if self._start is not None:
            self._start.relax()
        self._start_error *= 1.0 - LEARNING_SHARE


def retry_after_s(excess_s: float, draw: float) -> float:
    """When to come back: when what is too much has drained, spread by a quarter.

    `draw`, in [0, 1), keeps clients that were refused together from coming back together.
    """
    return min(max(excess_s, MIN_RETRY_S), MAX_RETRY_S) * (1.0 + draw / 4)
