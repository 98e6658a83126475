"""Who goes next: strict bands, and within a band tenants by weight. A queue over plain items.

Start-time fair queueing (Goyal, Vin and Cheng, 1996) over costs that are predicted when an item
comes and settled when it has been served, as the virtual token counter of Sheng et al. (2024) does.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

MAX_IDLE_FLOWS = 1024
"""Tenants without a waiting item that a band remembers; beyond it those furthest behind go."""

Item = TypeVar("Item", bound=Hashable)


# Not frozen: these are the queue's own state, changed with every item.
@dataclass(slots=True)
class _Flow(Generic[Item]):
    """One tenant's items in one band."""

    weight: float
    start: float
    """Virtual time at which its first item starts."""
    items: dict[Item, float] = field(default_factory=dict)
    """Costs, first come first."""
    backlog: float = 0.0
    """Cost of all of them."""


@dataclass(slots=True)
class _Band(Generic[Item]):
    """One band's tenants."""

    now: float = 0.0
    """Virtual time: where the item served last started."""
    flows: dict[str, _Flow[Item]] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    """Tenants that were served and wait for nothing: where their next item may start."""
    backlog: float = 0.0


class FairQueue(Generic[Item]):
    """Items of tenants in bands; higher bands come first, whatever waits below.

    Within a band a tenant's items leave in the order in which they came, and tenants that have
    items waiting leave by weight: over any stretch in which two of them never run out, what each
    was given, divided by its weight, differs by at most the sum of their largest items divided by
    theirs. So nobody starves in a band. A queue that holds something always gives something.
    """

    def __init__(self, weight_of: Callable[[str], float] = lambda _: 1.0) -> None:
        """`weight_of` names a tenant's weight, above 0; asked when it begins to wait."""
        self._weight_of = weight_of
        self._bands: dict[int, _Band[Item]] = {}
        self._order: list[int] = []
        """Negated bands that hold items, the highest first."""
        self._places: dict[Item, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Item]:
        """All items, in the order in which they came."""
        return iter(self._places)

    def __contains__(self, item: Item) -> bool:
        return item in self._places

    def push(self, item: Item, tenant: str, band: int, cost: float) -> None:
        """Adds an item behind those of its tenant and band. `cost` is at least 0."""
        if item in self._places:
            raise ValueError(f"{item!r} waits already")
        if band not in self._bands:
            self._bands[band] = _Band()
            insort(self._order, -band)
        lane = self._bands[band]
        flow = lane.flows.get(tenant)
        if flow is None:
            start = max(lane.now, lane.idle.pop(tenant, 0.0))
            flow = lane.flows[tenant] = _Flow(self._weight_of(tenant), start)
        flow.items[item] = cost
        flow.backlog += cost
        lane.backlog += cost
        self._places[item] = (band, tenant)

    def first(self) -> Item | None:
        """What `pop` would give; None from an empty queue."""
        if not self._order:
            return None
        flow = _next(self._bands[-self._order[0]])[1]
        return next(iter(flow.items))

    def pop(self) -> Item:
        """Takes out the item whose turn it is."""
        if not self._order:
            raise IndexError("the queue is empty")
        lane = self._bands[-self._order[0]]
        tenant, flow = _next(lane)
        item, cost = next(iter(flow.items.items()))
        lane.now = max(lane.now, flow.start)
        flow.start += cost / flow.weight
        self._take(item, -self._order[0], tenant)
        return item

    def remove(self, item: Item) -> bool:
        """Takes an item out that is not served; false if it doesn't wait."""
        place = self._places.get(item)
        if place is not None:
            self._take(item, *place)
        return place is not None

    def settle(self, tenant: str, band: int, difference: float) -> None:
        """What was served cost so much more than predicted: it counts from the next item on."""
        lane = self._bands.get(band)
        if lane is None:
            return  # nobody waits there: all begin alike
        flow = lane.flows.get(tenant)
        if flow is not None:
            flow.start += difference / flow.weight
        elif tenant in lane.idle:
            lane.idle[tenant] += difference / self._weight_of(tenant)

    def work_ahead(self, tenant: str, band: int) -> float:
        """Cost that is served before an item that would come now, if nothing else came."""
        ahead = sum(self._bands[-key].backlog for key in self._order if -key > band)
        lane = self._bands.get(band)
        if lane is None:
            return ahead
        own = lane.flows.get(tenant)
        if own is None:
            start = max(lane.now, lane.idle.get(tenant, 0.0))
        else:
            start = own.start + own.backlog / own.weight
        for flow in lane.flows.values():
            if flow is own:
                ahead += flow.backlog
            elif flow.start <= start:
                # Its items that start before ours; the last of them may reach beyond.
                ahead += min(flow.backlog, (start - flow.start) * flow.weight + _head(flow))
        return ahead

    def reweigh(self, weight_of: Callable[[str], float]) -> None:
        """Tenants in the highest band have these weights from their next items on."""
        if self._order:
            for tenant, flow in self._bands[-self._order[0]].flows.items():
                flow.weight = weight_of(tenant)

    def top(self) -> tuple[int, dict[str, float]]:
        """The highest band in which somebody waits, and the cost that does, by tenant."""
        if not self._order:
            return 0, {}
        band = -self._order[0]
        flows = self._bands[band].flows
        return band, {tenant: flow.backlog for tenant, flow in flows.items() if flow.backlog > 0}

    def victim(self, tenant: str, band: int) -> Item | None:
        """Whom a newcomer may displace where there is no more room.

        The newest item of the tenant with the most backlog for its weight, in the lowest band that
        holds any; None unless that band is below the newcomer's, or it is the same one and its
        tenant would still have more than the newcomer's.
        """
        if not self._order or -self._order[-1] > band:
            return None
        lowest = -self._order[-1]
        lane = self._bands[lowest]
        worst, flow = max(lane.flows.items(), key=lambda pair: len(pair[1].items) / pair[1].weight)
        if lowest == band:
            own = lane.flows.get(tenant)
            num_own = (len(own.items) if own else 0) + 1
            weight = own.weight if own else self._weight_of(tenant)
            if worst == tenant or (len(flow.items) - 1) / flow.weight < num_own / weight:
                return None
        return next(reversed(flow.items))

    @property
    def num_idle(self) -> int:
        """Tenants that wait for nothing and are remembered for what they were given."""
        return sum(len(lane.idle) for lane in self._bands.values())

    def lengths(self) -> dict[tuple[str, int], int]:
        """How many items wait, by tenant and band."""
        return {
            (tenant, band): len(flow.items)
            for band, lane in self._bands.items()
            for tenant, flow in lane.flows.items()
        }

    def _take(self, item: Item, band: int, tenant: str) -> None:
        lane = self._bands[band]
        flow = lane.flows[tenant]
        cost = flow.items.pop(item)
        del self._places[item]
        flow.backlog -= cost
        lane.backlog -= cost
        if flow.items:
            return
        del lane.flows[tenant]
        if not lane.flows:
            del self._bands[band]
            self._order.remove(-band)
        elif flow.start > lane.now:
            lane.idle[tenant] = flow.start
            if len(lane.idle) > MAX_IDLE_FLOWS:
                _forget(lane)


def _next(lane: _Band[Item]) -> tuple[str, _Flow[Item]]:
    """The tenant whose item starts first; of equals the one that has waited longest."""
    return min(lane.flows.items(), key=lambda pair: pair[1].start)


def _head(flow: _Flow[Item]) -> float:
    return next(iter(flow.items.values()))


def _forget(lane: _Band[Item]) -> None:
    """Drops the idle tenants that are behind by now, or else the half that is least ahead."""
    ahead = sorted((start, tenant) for tenant, start in lane.idle.items() if start > lane.now)
    lane.idle = {tenant: start for start, tenant in ahead[-MAX_IDLE_FLOWS // 2 :]}
