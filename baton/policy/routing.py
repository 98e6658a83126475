"""Where a request goes: its decode worker, and who computes its prompt. The least cost wins."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from operator import itemgetter

from baton.policy.decision import Decision, Option
from baton.policy.table import EQUAL_MS, WorkerTable
from baton.policy.weighing import (
    Aims,
    DecodeCost,
    PromptCost,
    local_cost,
    option,
    remote_cost,
    waiting_ms,
)
from baton.policy.workers import Prefill, RouteRequest, RoutingConfig, WorkerState
from baton.request import Role

ALWAYS_WEIGHED = 2
"""Prefill workers that are weighed for a decode worker even where they can't win."""
HOPELESS = 1.2
"""A way whose cost is at least so many times the least one so far is no near tie."""

_Pair = tuple[float, float, DecodeCost, PromptCost | None]
"""Cost, TTFT, decode worker, and prefill worker or None: local."""


def choose(
    request: RouteRequest, workers: WorkerTable, config: RoutingConfig, draw: float
) -> Decision:
    """Chooses among the workers of the request's model.

    `draw`, in [0, 1), picks two of the near ties: gateways that draw at random do not all run to
    the same worker while they know the same old facts.
    """
    most = config.shortlist
    decodes = workers.shortlist(request, Role.DECODE, most, draw)
    if not decodes:
        return Decision(rejected=workers.rejected(request, Role.DECODE))
    prefills: list[WorkerState] = []
    if config.prefill is not Prefill.LOCAL:
        prefills = workers.shortlist(request, Role.PREFILL, most, draw)
    aims = Aims.of(request, config)
    pairs = _pairs(request, decodes, prefills, aims, config)
    pairs.sort(key=_COST)
    weighed = _draw(pairs, aims, config, draw)
    _, ttft_ms, decode, prefill = weighed.winner
    prompt = prefill or decode.prompt
    return Decision(
        decode.state.view.worker_id,
        prefill.state.view.worker_id if prefill is not None else "",
        prompt.num_computed_tokens,
        ttft_ms,
        workers.rejected(request, Role.DECODE),
        weighed,
    )


_COST = itemgetter(0)


@dataclass(slots=True)
class _Weighed:
    """See `Details`."""

    pairs: list[_Pair]
    """The least cost first."""
    winner: _Pair
    num_ties: int
    limit_ms: float
    """Costs up to this one are near ties."""
    aims: Aims
    config: RoutingConfig

    def reason(self) -> str:
        """See `Details`."""
        if len(self.pairs) == 1:
            return "the only way"
        best_ms = self.pairs[0][0]
        if self.num_ties == 1:
            return f"least cost, {self.pairs[1][0] - best_ms:.1f} ms ahead"
        return f"drawn among {self.num_ties} within {self.limit_ms - best_ms:.1f} ms"

    def chosen(self) -> Option:
        """See `Details`."""
        return self._option(self.winner)

    def options(self) -> tuple[Option, ...]:
        """See `Details`."""
        return tuple(map(self._option, self.pairs))

    def _option(self, pair: _Pair) -> Option:
        return option(pair[2], pair[3], self.aims, self.config)


def _pairs(
    request: RouteRequest,
    decodes: list[WorkerState],
    prefills: list[WorkerState],
    aims: Aims,
    config: RoutingConfig,
) -> list[_Pair]:
    """All ways worth weighing, with their costs."""
    sources = [PromptCost(request, state) for state in prefills]
    sources.sort(key=_ready)
    insists = config.prefill is Prefill.REMOTE or config.remote_threshold_tokens is not None
    pairs: list[_Pair] = []
    least = inf
    for state in decodes:
        decode = DecodeCost(request, state, aims, config)
        remotes = _remotes(decode, sources, insists, config) if sources else []
        if not remotes or not insists:
            cost, ttft = local_cost(decode, aims, config)
            pairs.append((cost, ttft, decode, None))
            least = min(least, cost)
        before_ms = decode.room_ms + decode.join_ms
        for number, remote in enumerate(remotes):
            if number >= ALWAYS_WEIGHED:
                # Those that follow are ready later still.
                floor = waiting_ms(before_ms + remote.ready_ms, aims) + decode.rest_ms
                if floor > HOPELESS * least:
                    break
            cost, ttft = remote_cost(decode, remote, aims)
            pairs.append((cost, ttft, decode, remote))
            least = min(least, cost)
    return pairs


def _ready(source: PromptCost) -> float:
    return source.ready_ms


def _remotes(
    decode: DecodeCost, sources: list[PromptCost], insists: bool, config: RoutingConfig
) -> list[PromptCost]:
    """Prefill workers that may compute the rest of the prompt for a decode worker.

    With `insists` one of them is taken without comparison, so one that failed has no right to it.
    """
    view = decode.state.view
    # The decode worker computes a last block's worth itself whatever it is told.
    threshold = config.remote_threshold_tokens
    if decode.num_missing_tokens <= (view.block_size if threshold is None else threshold):
        return []
    namespace = view.namespace
    return [
        source
        for source in sources
        if (its := source.state.view).namespace == namespace and not (insists and its.failure_ms)
    ]


def _draw(pairs: list[_Pair], aims: Aims, config: RoutingConfig, draw: float) -> _Weighed:
    """Of the near ties, two at random; of these the cheaper, or the first if they are equal."""
    winner = best = pairs[0]
    limit = best[0] + max(config.tie_ms, config.tie_share * best[1])
    num_ties = 1
    while num_ties < len(pairs) and pairs[num_ties][0] <= limit:
        num_ties += 1
    if num_ties > 1:
        at = draw * num_ties
        first = int(at)
        second = int((at - first) * (num_ties - 1))
        second += second >= first
        winner = pairs[first]
        if pairs[second][0] < winner[0] - EQUAL_MS:
            winner = pairs[second]
    return _Weighed(pairs, winner, num_ties, limit, aims, config)
