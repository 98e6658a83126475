"""How fast a line drains while somebody waits in it. Times are seconds on any monotonic clock."""

from __future__ import annotations

from math import exp

from baton.policy.fetch import Rate

DRAIN_REQUESTS = 16
"""So many must have been let in before their rate says anything: one short request that passes
beside a long one would make the line look endless."""
DRAIN_WINDOW_S = 0.25
"""At least so much time is measured at once, so that one batch's end is no rate."""
FADE_S = 3.0
"""The line's absence after which a rate weighs a third of what it did."""
KEEP_S = 10.0
"""The longest absence that a rate outlives: within a worker's lease the pool has hardly changed."""


class Drain:
    """Cost let in per second, over windows in which the line was never empty.

    A rate of an earlier line counts for the next one the less the longer there was none, and not
    at all beyond `KEEP_S`: until the new line is measured, nobody is refused for its length.
    """

    def __init__(self) -> None:
        self._rate: Rate | None = None
        self._cost = 0.0
        self._num_requests = 0
        self._since = 0.0
        self._seen_at = 0.0

    @property
    def per_second(self) -> float:
        """Cost per second; 0: not measured."""
        return 0.0 if self._rate is None else self._rate.per_second

    def formed(self, now: float) -> None:
        """Somebody waits where nobody did."""
        absent_s = now - self._seen_at
        if absent_s > KEEP_S:
            self._rate = None
        elif self._rate is not None:
            self._rate.fade(exp(-absent_s / FADE_S))
        self._restart(now)

    def let_in(self, cost: float) -> None:
        """A request left the line for the workers."""
        self._cost += cost
        self._num_requests += 1

    def measure(self, now: float) -> None:
        """The line was there until now: learns from the window if it is long enough."""
        self._seen_at = now
        seconds = now - self._since
        if seconds < DRAIN_WINDOW_S or self._num_requests < DRAIN_REQUESTS or self._cost <= 0:
            return
        if self._rate is None:
            self._rate = Rate(self._cost / seconds, seconds)
        else:
            self._rate.observe(self._cost, seconds)
        self._restart(now)

    def _restart(self, now: float) -> None:
        self._cost, self._num_requests = 0.0, 0
        self._since = self._seen_at = now
