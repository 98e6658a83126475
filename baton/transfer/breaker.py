"""Stops asking a peer that fails, and finds out cheaply when it is back."""

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE_S = 1.0
LAST_PAUSE_S = 8.0


@dataclass(slots=True)
class Breaker:
    """Closed while all is well. After a failure one try is let through per pause; pauses double."""

    num_failures: int = 0
    """Failures in a row."""
    retry_at: float = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether the last call went well."""
        return self.num_failures == 0

    def may_try(self, now: float) -> bool:
        """Whether a call would be let through."""
        return self.num_failures == 0 or now >= self.retry_at

    def begin(self, now: float) -> None:
        """A call goes out: while failing, it is the only one until the pause is over again."""
        if self.num_failures:
            self.retry_at = now + self._pause()

    def fail(self, now: float) -> bool:
        """A call failed; says whether that begins an outage."""
        self.num_failures += 1
        self.retry_at = now + self._pause()
        return self.num_failures == 1

    def succeed(self) -> bool:
        """A call went well; says whether that ends an outage."""
        was_failing, self.num_failures = self.num_failures > 0, 0
        return was_failing

    def _pause(self) -> float:
        return min(LAST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self.num_failures - 1, 10))
