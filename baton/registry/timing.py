"""All intervals of the registry in one place, so that tests can shorten them together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Intervals in seconds."""

    lease_s: float = 10.0
    """Life of a worker record, a load record and a gateway's bookings without a refresh."""
    refresh_s: float = 3.0
    """How often a worker renews its lease: three tries fit into one lease."""
    event_interval_s: float = 0.05
    """Block events are sent at once after a pause, then at most this often."""
    load_interval_s: float = 0.2
    """Load records are sent at most this often; the newest wins."""
    poll_s: float = 0.25
    """How often a gateway reads records and loads when no news wakes it."""
    booking_interval_s: float = 0.1
    """How often a gateway tells its bookings and reads those of the others."""
    reply_timeout_s: float = 2.0
    """Longest wait for Redis, connecting included, before it counts as away."""
    first_retry_s: float = 0.1
    """Pause behind the first failure; it doubles up to `last_retry_s`."""
    last_retry_s: float = 1.0
    """Longest pause between two tries."""
    snapshot_timeout_s: float = 10.0
    """Longest wait for a part of a worker's snapshot."""

    @property
    def stream_ttl_s(self) -> float:
        """Life of an event stream without a refresh: longer than the lease, for slow readers."""
        return 3 * self.lease_s


def retry_pause(timing: Timing, num_failures: int) -> float:
    """Seconds to wait behind the n-th failure in a row, counted from 1."""
    doublings = min(num_failures - 1, 30)
    return min(timing.first_retry_s * 2.0**doublings, timing.last_retry_s)
