"""What a gateway may take of the workers, and for whom, while several gateways have lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

MAX_TENANTS = 256
"""Of a line that others are told: those with most in it. The others keep their weights."""


@dataclass(frozen=True, slots=True)
class Line:
    """Who waits at a gateway, in the highest band of its line."""

    band: int = 0
    backlogs: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Cost that waits, by tenant, above 0; empty: nobody waits."""

    def to_values(self) -> list[object]:
        """The form in which it is written."""
        most = sorted(self.backlogs.items(), key=lambda pair: -pair[1])[:MAX_TENANTS]
        return [self.band, {tenant: round(cost, 1) for tenant, cost in most}]

    @classmethod
    def from_values(cls, values: object) -> Line:
        """The line behind that form. Raises ValueError for anything else."""
        match values:
            case [int(band), dict(costs)]:
                return cls(band, {str(name): float(cost) for name, cost in costs.items()})
        raise ValueError(f"a line is a band and costs by tenant, not {values!r:.80}")


NOBODY = Line()


@dataclass(frozen=True, slots=True)
class Part:
    """One gateway's part of a pool."""

    room: float = 1.0
    """Of all that the workers take at a time."""
    tenants: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """By what their weights count here; those not named count whole."""


WHOLE = Part()


def part_of(own: Line, others: Sequence[Line], weight_of: Callable[[str], float]) -> Part:
    """What the gateway with line `own` may take while others have theirs.

    Only the highest band that waits anywhere counts: gateways where it doesn't wait take nothing
    (callers leave each of them one request per worker). There each tenant's weight is dealt out to
    the gateways by where its work waits, and a gateway's room is its part of all weights. Within a
    gateway tenants share by these parts, so that over all gateways they share by their weights,
    whoever waits where.
    """
    lines = [line for line in others if line.backlogs]
    if not lines:
        return WHOLE
    band = max(line.band for line in (*lines, *([own] if own.backlogs else ())))
    total: dict[str, float] = {}
    for line in (own, *lines):
        if line.band == band:
            for tenant, cost in line.backlogs.items():
                total[tenant] = total.get(tenant, 0.0) + cost
    mine = own.backlogs if own.band == band else {}
    parts = {tenant: cost / total[tenant] for tenant, cost in mine.items()}
    all_weights = sum(weight_of(tenant) for tenant in total)
    room = sum(weight_of(tenant) * part for tenant, part in parts.items()) / all_weights
    return Part(room, parts)
