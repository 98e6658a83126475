"""The workers of one model, kept in order of what they cost any request."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from heapq import nsmallest

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


class WorkerTable:
    """Views by worker, with what follows from each worked out once per change.

    Fit workers of a role stand in order of their floor, which is what the smallest request would
    cost there: no request costs less. So a shortlist needs no look at all of a thousand workers.
    """

    def __init__(self, views: Iterable[WorkerView] = (), config: RoutingConfig = DEFAULTS) -> None:
        self._config = config
        self._entries: dict[str, _Entry] = {}
        self._ranks: dict[Role, list[_Entry]] = {Role.DECODE: [], Role.PREFILL: []}
        self._unfit: dict[str, Rejected] = {}
        for view in views:
            self.put(view)

    def __len__(self) -> int:
        return len(self._entries) + len(self._unfit)

    def put(self, view: WorkerView) -> None:
        """Takes a worker in, or its newer view."""
        self.remove(view.worker_id)
        reason = _unfitness(view)
        if reason:
            self._unfit[view.worker_id] = Rejected(view.worker_id, reason)
            return
        state = WorkerState.of(view)
        entry = (floor_ms(state, self._config), view.worker_id, state)
        self._entries[view.worker_id] = entry
        insort(self._ranks[view.role], entry)

    def remove(self, worker_id: str) -> None:
        """Forgets a worker. Idempotent."""
        self._unfit.pop(worker_id, None)
        entry = self._entries.pop(worker_id, None)
        if entry is not None:
            rank = self._ranks[entry[2].view.role]
            del rank[bisect_left(rank, entry)]

    def state(self, worker_id: str) -> WorkerState | None:
        """What follows from a fit worker's view."""
        entry = self._entries.get(worker_id)
        return entry[2] if entry is not None else None

    def states(self, role: Role) -> list[WorkerState]:
        """All fit workers of a role, the lowest floor first."""
        return [entry[2] for entry in self._ranks[role]]

    def rejected(self, request: RouteRequest, role: Role) -> tuple[Rejected, ...]:
        """Workers that cannot take a request, and why; not all of very many."""
        named = list(self._unfit.values())[:MAX_NAMED]
        for *_, state in self._ranks[role][:MAX_NAMED]:
            reason = unfitness_for(request, state.view)
            if reason:
                named.append(Rejected(state.view.worker_id, reason))
        return tuple(named)

    def shortlist(
        self, request: RouteRequest, role: Role, most: int, draw: float
    ) -> list[WorkerState]:
        """The workers of a role that are worth weighing for a request.

        Half of them for what they cache, the others for their floor. Two workers that cache equally
        much differ by their load only, and the floor is what load costs whatever the request: so
        behind the deepest caches the least loaded worker is best. Of many equal floors, `draw`
        says where to begin.
        """
        rank = self._ranks[role]
        if len(rank) <= most:
            return [entry[2] for entry in rank if not unfitness_for(request, entry[2].view)]
        chosen = {state.view.worker_id: state for state in self._deepest(request, role, most // 2)}
        num_equal = bisect_right(rank, rank[0][0] + EQUAL_MS, key=_floor)
        at = int(draw * (num_equal - most)) if num_equal > most else 0
        while at < len(rank) and len(chosen) < most:
            state = rank[at][2]
            if not unfitness_for(request, state.view):
                chosen[state.view.worker_id] = state
            at += 1
        return list(chosen.values())

    def _deepest(self, request: RouteRequest, role: Role, most: int) -> list[WorkerState]:
        """Those that cache most of the request; of those that cache equally much the idlest."""
        holders = []
        for worker_id, num_blocks in request.cached_blocks.items():
            entry = self._entries.get(worker_id)
            if entry is not None and entry[2].view.role is role:
                holders.append((-num_blocks, *entry))
        deepest = nsmallest(most, holders)
        return [e[3] for e in deepest if not unfitness_for(request, e[3].view)]


def _floor(entry: _Entry) -> float:
    return entry[0]


def _unfitness(view: WorkerView) -> str:
    """Why a worker cannot take anything; empty when it can."""
    if view.role not in (Role.DECODE, Role.PREFILL):
        return "is neither a decode nor a prefill worker"
    if not view.is_reachable:
        return "is unreachable"
    if view.is_draining:
        return "is draining"
    return ""


def unfitness_for(request: RouteRequest, view: WorkerView) -> str:
    """Why a worker cannot take this request; empty when it can."""
    if view.worker_id in request.excluded:
        return "is excluded"
    if 0 < view.num_blocks * view.block_size < request.num_tokens:
        return "is too small"
    return ""
