"""The workers of one model, kept in order of what they cost any request."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from heapq import nsmallest
from itertools import islice

from baton.policy.decision import Rejected
from baton.policy.weighing import floor_ms
from baton.policy.workers import RouteRequest, RoutingConfig, WorkerState, WorkerView
from baton.request import Role

DEFAULTS = RoutingConfig()
MAX_NAMED = 16
"""Most workers that a decision names as unfit."""
EQUAL_MS = 0.01
"""Floors closer than this are equal: any of their workers will do."""

_Entry = tuple[float, str, WorkerState]


class _Rank:
    """Fit workers of one role. They are put in order when somebody asks for it."""

    def __init__(self, config: RoutingConfig) -> None:
        self.states: dict[str, WorkerState] = {}
        self.stall_weight = config.stall_weight
        self._config = config
        self._order: list[_Entry] = []
        self._floors: dict[str, float] = {}
        """Of those in order."""
        self._changed: set[str] = set()

    def put(self, worker_id: str, state: WorkerState) -> None:
        self.states[worker_id] = state
        self._changed.add(worker_id)

    def remove(self, worker_id: str) -> None:
        if self.states.pop(worker_id, None) is not None:
            self._changed.add(worker_id)

    def floor(self, worker_id: str) -> float:
        """Of a worker that is here, once `ordered` was asked for."""
        return self._floors[worker_id]

    def ordered(self) -> list[_Entry]:
        """Floor, worker and state, the lowest floor first."""
        order, floors = self._order, self._floors
        for worker_id in self._changed:
            old = floors.pop(worker_id, None)
            if old is not None:
                del order[bisect_left(order, (old, worker_id))]
            state = self.states.get(worker_id)
            if state is not None:
                floors[worker_id] = floor_ms(state, self._config)
                insort(order, (floors[worker_id], worker_id, state))
        self._changed.clear()
        return order


class WorkerTable:
    """Views by worker, with what follows from each worked out once per change.

    Fit workers of a role stand in order of their floor, which is what the smallest request would
    cost there: no request costs less. So a shortlist needs no look at all of a thousand workers.
    """

    def __init__(self, views: Iterable[WorkerView] = (), config: RoutingConfig = DEFAULTS) -> None:
        self._decodes, self._prefills = _Rank(config), _Rank(config)
        self._unfit: dict[str, Rejected] = {}
        for view in views:
            self.put(view)

    def __len__(self) -> int:
        return len(self._decodes.states) + len(self._prefills.states) + len(self._unfit)

    def put(self, view: WorkerView) -> None:
        """Takes a worker in, or its newer view."""
        reason = _unfitness(view)
        if reason:
            self.remove(view.worker_id)
            self._unfit[view.worker_id] = Rejected(view.worker_id, reason)
            return
        if self._unfit:
            self._unfit.pop(view.worker_id, None)
        self._rank(view.role).put(view.worker_id, WorkerState(view))

    def remove(self, worker_id: str) -> None:
        """Forgets a worker. Idempotent."""
        self._unfit.pop(worker_id, None)
        self._decodes.remove(worker_id)
        self._prefills.remove(worker_id)

    def state(self, worker_id: str) -> WorkerState | None:
        """What follows from a fit worker's view."""
        return self._decodes.states.get(worker_id) or self._prefills.states.get(worker_id)

    def states(self, role: Role) -> list[WorkerState]:
        """All fit workers of a role, the lowest floor first."""
        return [entry[2] for entry in self._rank(role).ordered()]

    def rejected(self, request: RouteRequest, role: Role) -> tuple[Rejected, ...]:
        """Workers that cannot take a request, and why; not all of very many."""
        named = list(self._unfit.values())[:MAX_NAMED] if self._unfit else []
        for state in islice(self._rank(role).states.values(), MAX_NAMED):
            if not takes(state, request):
                name = state.view.worker_id
                reason = "is excluded" if name in request.excluded else "is too small"
                named.append(Rejected(name, reason))
        return tuple(named)

    def takers(self, request: RouteRequest, role: Role) -> list[WorkerState]:
        """All fit workers of a role that can take a request, in no order of merit."""
        states = self._rank(role).states.values()
        return [state for state in states if takes(state, request)]

    def shortlist(
        self, request: RouteRequest, role: Role, most: int, draw: float
    ) -> list[WorkerState]:
        """The workers of a role that are worth weighing for a request.

        Half of them are the cheapest of those that cache a part of it, roughly weighed. The others
        are those with the lowest floor: what caches nothing differs by its load only, and the floor
        is what load costs whatever the request. Of many equal floors, `draw` says where to begin.
        """
        rank = self._rank(role)
        if len(rank.states) <= most:
            return self.takers(request, role)
        order = rank.ordered()
        chosen = {state.view.worker_id: state for state in _holders(rank, request, most // 2)}
        num_equal = bisect_right(order, order[0][0] + EQUAL_MS, key=_floor)
        at = int(draw * (num_equal - most)) if num_equal > most else 0
        while at < len(order) and len(chosen) < most:
            state = order[at][2]
            if takes(state, request):
                chosen[state.view.worker_id] = state
            at += 1
        return list(chosen.values())

    def _rank(self, role: Role) -> _Rank:
        # No mapping: hashing an enum's member costs more than all else here.
        return self._decodes if role is Role.DECODE else self._prefills


def _holders(rank: _Rank, request: RouteRequest, most: int) -> list[WorkerState]:
    """Of those that cache some of the request the cheapest ones, roughly: their floor, the time to
    compute the rest in full steps, and what that holds up."""
    num_tokens, weight = request.num_tokens, rank.stall_weight
    holders = []
    for worker_id, num_blocks in request.cached_blocks.items():
        state = rank.states.get(worker_id)
        if state is not None:
            num_left = num_tokens - num_blocks * state.view.block_size
            rest_ms = num_left * state.full_token_ms * (1.0 + weight * state.num_streams)
            holders.append((rank.floor(worker_id) + rest_ms, worker_id, state))
    return [e[2] for e in nsmallest(most, holders) if takes(e[2], request)]


def takes(state: WorkerState, request: RouteRequest) -> bool:
    """Whether a fit worker can take this request: it has room for it, ever, and is not excluded."""
    return request.num_tokens <= state.max_tokens and state.view.worker_id not in request.excluded


def _floor(entry: _Entry) -> float:
    return entry[0]


def _unfitness(view: WorkerView) -> str:
    """Why a worker cannot take anything; empty when it can."""
    if view.role is not Role.DECODE and view.role is not Role.PREFILL:
        return "is neither a decode nor a prefill worker"
    if not view.is_reachable:
        return "is unreachable"
    if view.is_draining:
        return "is draining"
    return ""
