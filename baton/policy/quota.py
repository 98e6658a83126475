"""Who must give room to whom: weighted shares of a store among the tenants that use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Quotas:
    """Bytes held by each tenant, and whose block goes when room is short.

    A tenant's share is `capacity_bytes` times its weight over the weights of all that hold blocks
    or ask for room now; nobody's share lies idle while others want more. One over its share gives
    up its own blocks and no others'; one below takes from those that are over theirs, the most
    overdrawn first. Tenants within their shares give only if nobody is over: what blocks' sizes
    leave unusable may bring that about.
    """

    def __init__(self, capacity_bytes: int, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})
        if any(weight <= 0 for weight in self._weights.values()):
            raise ValueError("a tenant's weight is positive")
        self.capacity_bytes = capacity_bytes
        self._used: dict[str, int] = {}

    def used(self, tenant: str) -> int:
        """Bytes a tenant holds."""
        return self._used.get(tenant, 0)

    def tenants(self) -> list[str]:
        """Those that hold anything."""
        return list(self._used)

    def share(self, tenant: str) -> float:
        """Bytes a tenant may hold while all others want theirs."""
        weights = sum(self._weight(name) for name in self._used)
        if tenant not in self._used:
            weights += self._weight(tenant)
        return self.capacity_bytes * self._weight(tenant) / weights

    def charge(self, tenant: str, num_bytes: int) -> None:
        """A tenant holds more."""
        self._used[tenant] = self._used.get(tenant, 0) + num_bytes

    def refund(self, tenant: str, num_bytes: int) -> None:
        """A tenant holds less."""
        left = self._used[tenant] - num_bytes
        if left:
            self._used[tenant] = left
        else:
            del self._used[tenant]

    def givers(self, tenant: str, num_bytes: int) -> Iterator[str]:
        """Whose blocks may go for `num_bytes` of this tenant, in the order to ask them."""
        if len(self._used) == 1 and tenant in self._used:
            yield tenant  # the usual case, and a put of small blocks feels what follows
            return
        share = self.share(tenant)
        if self.used(tenant) + num_bytes > share:
            yield tenant
            return
        per_weight = share / self._weight(tenant)
        load = {name: used / self._weight(name) for name, used in self._used.items()}
        ranked = sorted(load, key=lambda name: -load[name])
        yield from (name for name in ranked if load[name] > per_weight and name != tenant)
        # A store is full before the last byte: then the largest give, however large they are.
        yield tenant
        yield from (name for name in ranked if load[name] <= per_weight and name != tenant)

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)
