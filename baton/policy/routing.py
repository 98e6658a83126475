"""Where a request goes: its decode worker, and who computes its prompt. The least cost wins."""

from __future__ import annotations

from functools import partial
from math import inf

from baton.policy.decision import Decision, Option
from baton.policy.table import EQUAL_MS, WorkerTable
from baton.policy.weighing import (
    Aims,
    DecodeCost,
    PromptCost,
    option,
    remote_cost,
    waiting_ms,
    weigh,
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
        reason = "no decode worker can take it"
        return Decision(None, reason, workers.rejected(request, Role.DECODE))
    prefills: list[WorkerState] = []
    if config.prefill is not Prefill.LOCAL:
        prefills = workers.shortlist(request, Role.PREFILL, most, draw)
    aims = Aims.of(request, config)
    pairs = _pairs(request, decodes, prefills, aims, config)
    pairs.sort(key=_cost)
    winner, reason = _draw(pairs, config, draw)
    return Decision(
        option(request, winner[2], winner[3], aims, config),
        reason,
        workers.rejected(request, Role.DECODE),
        partial(_options, request, pairs, aims, config),
    )


def _cost(pair: _Pair) -> float:
    return pair[0]


def _options(
    request: RouteRequest, pairs: list[_Pair], aims: Aims, config: RoutingConfig
) -> tuple[Option, ...]:
    return tuple(option(request, decode, prefill, aims, config) for *_, decode, prefill in pairs)


def _pairs(
    request: RouteRequest,
    decodes: list[WorkerState],
    prefills: list[WorkerState],
    aims: Aims,
    config: RoutingConfig,
) -> list[_Pair]:
    """All ways worth weighing, with their costs."""
    sources = [PromptCost.of(request, state) for state in prefills]
    sources.sort(key=_ready)
    pairs: list[_Pair] = []
    least = inf
    for state in decodes:
        decode = DecodeCost.of(request, state, aims, config)
        namespace = state.view.namespace
        remotes = [source for source in sources if source.state.view.namespace == namespace]
        if not _wants_remote(request, decode, config):
            remotes = []
        if _insists(config):
            remotes = [remote for remote in remotes if not remote.state.view.failure_ms]
        if not remotes or not _insists(config):
            cost, ttft, *_ = weigh(request, decode, None, aims, config)
            pairs.append((cost, ttft, decode, None))
            least = min(least, cost)
        before_ms = decode.room_ms + decode.join_ms
        for number, remote in enumerate(remotes):
            # Those that follow are ready later still.
            floor = waiting_ms(before_ms + remote.ready_ms, aims) + decode.remote_rest_ms
            if number >= ALWAYS_WEIGHED and floor > HOPELESS * least:
                break
            cost, ttft = remote_cost(request, decode, remote, aims)
            pairs.append((cost, ttft, decode, remote))
            least = min(least, cost)
    return pairs


def _ready(source: PromptCost) -> float:
    return source.ready_ms


def _insists(config: RoutingConfig) -> bool:
    """Whether a prefill worker is taken without comparison, where one is wanted."""
    return config.prefill is Prefill.REMOTE or config.remote_threshold_tokens is not None


def _wants_remote(request: RouteRequest, decode: DecodeCost, config: RoutingConfig) -> bool:
    """Whether a prefill worker may compute the rest of the prompt at all."""
    prompt = decode.prompt
    # The decode worker computes a last block's worth itself whatever it is told.
    missing = request.num_tokens - prompt.num_cached_tokens
    if missing <= prompt.state.view.block_size and config.remote_threshold_tokens is None:
        return False
    return config.remote_threshold_tokens is None or missing > config.remote_threshold_tokens


def _draw(pairs: list[_Pair], config: RoutingConfig, draw: float) -> tuple[_Pair, str]:
    """Of the near ties, two at random; of these the cheaper, or the first if they are equal."""
    best = pairs[0]
    if len(pairs) == 1:
        return best, "the only way"
    limit = best[0] + max(config.tie_ms, config.tie_share * best[1])
    num_ties = 1
    while num_ties < len(pairs) and pairs[num_ties][0] <= limit:
        num_ties += 1
    if num_ties == 1:
        return best, f"least cost, {pairs[1][0] - best[0]:.1f} ms ahead"
    at = draw * num_ties
    first = int(at)
    second = int((at - first) * (num_ties - 1))
    second += second >= first
    winner = pairs[first]
    if pairs[second][0] < winner[0] - EQUAL_MS:
        winner = pairs[second]
    return winner, f"drawn among {num_ties} within {limit - best[0]:.1f} ms"
