"""The names of all keys in Redis."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names under one prefix: several deployments may share a Redis.

    The braces are a hash tag: all keys are in one slot, as transactions over several of them need.
    """

    prefix: str = "{baton}:"

    @property
    def workers(self) -> str:
        """Sorted set: worker id by the time of its last refresh. Lists, never decides who lives."""
        return f"{self.prefix}workers"

    @property
    def gateways(self) -> str:
        """Sorted set: gateway id by the time of its last refresh."""
        return f"{self.prefix}gateways"

    @property
    def news(self) -> str:
        """Stream of joins, leaves and changes; wakes gateways between their polls."""
        return f"{self.prefix}news"

    @property
    def incarnation(self) -> str:
        """Random string that lives as long as this Redis keeps its data."""
        return f"{self.prefix}incarnation"

    def worker(self, worker_id: str) -> str:
        """Hash: the worker record. It exists as long as the worker's lease."""
        return f"{self.prefix}worker:{worker_id}"

    def events(self, worker_id: str) -> str:
        """Stream: what happened to the worker's cached blocks."""
        return f"{self.prefix}events:{worker_id}"

    def load(self, worker_id: str) -> str:
        """String: the worker's newest load record, JSON."""
        return f"{self.prefix}load:{worker_id}"

    def bookings(self, gateway_id: str) -> str:
        """Hash: worker id to what this gateway has promised to it."""
        return f"{self.prefix}bookings:{gateway_id}"

    def lines(self, gateway_id: str) -> str:
        """Hash: model to who waits for it at this gateway, JSON. Gone: nobody waits."""
        return f"{self.prefix}lines:{gateway_id}"
