"""Rules that know no times, beside the predicted policy: to compare with, on one's own load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Protocol

from baton.policy.decision import Decision, Option
from baton.policy.routing import choose
from baton.policy.table import WorkerTable
from baton.policy.weighing import Aims, DecodeCost, PromptCost, option, weigh
from baton.policy.workers import Prefill, RouteRequest, RoutingConfig, WorkerState
from baton.request import Role

REMOTE_TOKENS = 64
"""More uncached tokens than this go to a prefill worker, where the configuration has no number."""
PREFIX_STEP = 64
"""Prefixes whose tokens differ by less are taken for equally long."""
CROWDED_FACTOR, CROWDED_SLACK = 1.5, 8
"""A worker is crowded above so many times the least load, and above so much more than it."""
TOKENS_PER_SEQUENCE = 256
"""Pending tokens that weigh as much as a sequence on a decode worker."""
MAX_TURNS = 8192
"""Most workers whose last turn is remembered."""

Chooser = Callable[[RouteRequest, WorkerTable, RoutingConfig, float], Decision]
"""Chooses for a request among the workers of its model, with a draw in [0, 1)."""


class Routing(StrEnum):
    """How workers are chosen."""

    PREDICTED = "predicted"
    """By predicted milliseconds: `baton.policy.routing`."""
    ROUND_ROBIN = "round-robin"
    """Whoever was chosen longest ago."""
    LEAST_LOAD = "least-load"
    """The fewest sequences; of prefill workers the fewest pending tokens."""
    LONGEST_PREFIX = "longest-prefix"
    """Whoever caches most of the prompt, unless crowded; then the least load."""


def chooser(routing: Routing) -> Chooser:
    """The choice by this name. One per gateway: round robin remembers its turns."""
    if routing is Routing.PREDICTED:
        return choose
    if routing is Routing.ROUND_ROBIN:
        return _ByRule(routing.value, _RoundRobin())
    return _ByRule(routing.value, _LeastLoad() if routing is Routing.LEAST_LOAD else _Prefix())


class _Rule(Protocol):
    """Ranks workers of one role: the least rank is chosen, ties are drawn."""

    def rank(self, state: WorkerState, request: RouteRequest, least: float) -> tuple[float, ...]:
        """`least` is the least load of all that are ranked."""

    def took(self, state: WorkerState) -> None:
        """This one was chosen."""


class _ByRule:
    """A decode worker by a rule and, for what is long, a prefill worker by the same rule.

    Whoever can't take the request is left out as in `choose`. Nothing is weighed, so a worker that
    failed lately is passed over as long as there is another; of prefill workers the decode worker
    is such another.
    """

    def __init__(self, name: str, rule: _Rule) -> None:
        self._name = name
        self._rule = rule

    def __call__(
        self, request: RouteRequest, workers: WorkerTable, config: RoutingConfig, draw: float
    ) -> Decision:
        rejected = workers.rejected(request, Role.DECODE)
        fit = workers.takers(request, Role.DECODE)
        if not fit:
            return Decision(rejected=rejected)
        state, draw = self._pick([s for s in fit if not s.view.failure_ms] or fit, request, draw)
        aims = Aims.of(request, config)
        decode = DecodeCost(request, state, aims, config)
        sources = _sources(decode, workers, request, config)
        prefill = None
        if sources:
            prefill = PromptCost(request, self._pick(sources, request, draw)[0])
        return Decision(
            state.view.worker_id,
            prefill.state.view.worker_id if prefill is not None else "",
            (prefill or decode.prompt).num_computed_tokens,
            weigh(decode, prefill, aims, config)[1],
            rejected,
            _Followed(self._name, decode, prefill, aims, config),
        )

    def _pick(
        self, states: list[WorkerState], request: RouteRequest, draw: float
    ) -> tuple[WorkerState, float]:
        """The one with the least rank, and what is left of the draw."""
        rule, least = self._rule, min(map(_load, states))
        best: tuple[float, ...] = (inf,)
        ties: list[WorkerState] = []
        for state in states:
            rank = rule.rank(state, request, least)
            if rank < best:
                best, ties = rank, [state]
            elif rank == best:
                ties.append(state)
        at = draw * len(ties)
        state = ties[int(at)]
        rule.took(state)
        return state, at - int(at)


@dataclass(slots=True)
class _Followed:
    """See `Details`: the way that a rule took, with what it is predicted to cost."""

    name: str
    decode: DecodeCost
    prefill: PromptCost | None
    aims: Aims
    config: RoutingConfig

    def reason(self) -> str:
        """See `Details`."""
        return f"by the rule {self.name}"

    def chosen(self) -> Option:
        """See `Details`."""
        return option(self.decode, self.prefill, self.aims, self.config)

    def options(self) -> tuple[Option, ...]:
        """See `Details`: nothing else was weighed."""
        return (self.chosen(),)


def _sources(
    decode: DecodeCost, workers: WorkerTable, request: RouteRequest, config: RoutingConfig
) -> list[WorkerState]:
    """Prefill workers that may compute the rest of the prompt; none: the decode worker does."""
    view = decode.state.view
    threshold = config.remote_threshold_tokens
    if threshold is None:
        threshold = view.block_size if config.prefill is Prefill.REMOTE else REMOTE_TOKENS
    if config.prefill is Prefill.LOCAL or decode.num_missing_tokens <= threshold:
        return []
    return [
        state
        for state in workers.takers(request, Role.PREFILL)
        if state.view.namespace == view.namespace and not state.view.failure_ms
    ]


def _load(state: WorkerState) -> int:
    if state.view.role is Role.PREFILL:
        return state.num_pending_tokens
    return state.view.num_sequences + state.num_pending_tokens // TOKENS_PER_SEQUENCE


class _LeastLoad:
    """See `Routing`."""

    def rank(self, state: WorkerState, request: RouteRequest, least: float) -> tuple[float, ...]:
        """See `_Rule`."""
        return (_load(state),)

    def took(self, state: WorkerState) -> None:
        """See `_Rule`."""


class _Prefix:
    """See `Routing`."""

    def rank(self, state: WorkerState, request: RouteRequest, least: float) -> tuple[float, ...]:
        """See `_Rule`."""
        load = _load(state)
        slack = CROWDED_SLACK * (512 if state.view.role is Role.PREFILL else 1)
        is_crowded = load > max(least * CROWDED_FACTOR, least + slack)
        return is_crowded, -(state.num_cached_tokens(request) // PREFIX_STEP), load

    def took(self, state: WorkerState) -> None:
        """See `_Rule`."""


class _RoundRobin:
    """See `Routing`. It counts turns, not places in a list: workers come and go."""

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}
        """By worker, the last one at the end."""
        self._num_turns = 0

    def rank(self, state: WorkerState, request: RouteRequest, least: float) -> tuple[float, ...]:
        """See `_Rule`."""
        return (self._turns.get(state.view.worker_id, 0),)

    def took(self, state: WorkerState) -> None:
        """See `_Rule`."""
        worker_id = state.view.worker_id
        self._num_turns += 1
        self._turns.pop(worker_id, None)
        self._turns[worker_id] = self._num_turns
        if len(self._turns) > MAX_TURNS:
            del self._turns[next(iter(self._turns))]
