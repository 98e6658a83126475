"""Who failed lately: a worker that did not deliver costs more for a while."""

from __future__ import annotations

FAILURE_MS = 10_000.0
"""What one failure just now costs: more than any queue that is not hopeless."""
HALF_LIFE_S = 0.5
"""A worker that failed once is as good as others after about ten of these, a restart's time."""
FORGOTTEN_MS = 5.0


class FailureMemory:
    """Failures by worker, fading. `now` is in seconds of any one clock."""

    def __init__(self, half_life_s: float = HALF_LIFE_S) -> None:
        self._half_life_s = half_life_s
        self._failures: dict[str, tuple[float, float]] = {}

    def note(self, worker_id: str, now: float) -> None:
        """A worker failed. Failures in a row add up, and so take longer to be forgiven."""
        self._failures[worker_id] = (self.cost_ms(worker_id, now) + FAILURE_MS, now)

    def cost_ms(self, worker_id: str, now: float) -> float:
        """What to expect to lose by its failing again; 0 once it is forgotten."""
        known = self._failures.get(worker_id)
        if known is None:
            return 0.0
        cost_ms, at = known
        left_ms: float = cost_ms * 0.5 ** (max(0.0, now - at) / self._half_life_s)
        if left_ms < FORGOTTEN_MS:
            del self._failures[worker_id]
            return 0.0
        return left_ms

    def expire(self, now: float) -> None:
        """Forgets what is long past, also of workers that nobody asks for any more."""
        for worker_id in list(self._failures):
            self.cost_ms(worker_id, now)

    @property
    def is_empty(self) -> bool:
        """Whether nobody has failed lately."""
        return not self._failures
