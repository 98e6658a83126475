"""The policies compared: ours, ours with one hand tied, and rules that others use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

from baton.policy.routing import choose
from baton.policy.table import WorkerTable
from baton.policy.workers import Prefill, RouteRequest, RoutingConfig, WorkerState
from baton.request import Role
from bench.routing.simulator import Policy, Ways

REMOTE_TOKENS = 64
"""More uncached tokens than this go to a prefill worker, under the rules that know no times."""
PREFIX_STEP = 64
CROWDED_FACTOR, CROWDED_SLACK = 1.5, 8


def ours(request: RouteRequest, table: WorkerTable, config: RoutingConfig, draw: float) -> Ways:
    """The policy of this project."""
    chosen = choose(request, table, config, draw).chosen
    assert chosen is not None
    return chosen.decode_worker_id, chosen.prefill_worker_id, chosen.ttft_ms


def _only(prefill: Prefill) -> Policy:
    def policy(
        request: RouteRequest, table: WorkerTable, config: RoutingConfig, draw: float
    ) -> Ways:
        return ours(request, table, replace(config, prefill=prefill), draw)

    return policy


def _ranked(rank: Callable[[WorkerState, RouteRequest, int, int], tuple[float, ...]]) -> Policy:
    """The least rank of (worker, request, least load, load) wins; ties are drawn."""

    def pick(states: list[WorkerState], request: RouteRequest, draw: float) -> str:
        loads = {state.view.worker_id: _load(state) for state in states}
        least = min(loads.values())
        ranks = {
            state.view.worker_id: rank(state, request, least, loads[state.view.worker_id])
            for state in states
        }
        best = min(ranks.values())
        ties = sorted(name for name, value in ranks.items() if value == best)
        return ties[int(draw * len(ties))]

    def policy(
        request: RouteRequest, table: WorkerTable, config: RoutingConfig, draw: float
    ) -> Ways:
        decode = pick(table.states(Role.DECODE), request, draw)
        state = table.state(decode)
        assert state is not None
        prefills = table.states(Role.PREFILL)
        if request.num_tokens - state.num_cached_tokens(request) <= REMOTE_TOKENS or not prefills:
            return decode, "", 0.0
        return decode, pick(prefills, request, draw), 0.0

    return policy


def _load(state: WorkerState) -> int:
    if state.view.role is Role.PREFILL:
        return state.num_pending_tokens
    return state.view.num_sequences + state.num_pending_tokens // 256


def _least_load(
    state: WorkerState, request: RouteRequest, least: int, load: int
) -> tuple[float, ...]:
    return (load,)


def _longest_prefix(
    state: WorkerState, request: RouteRequest, least: int, load: int
) -> tuple[float, ...]:
    """The longest prefix, unless its worker is crowded; then the least load. Baton's first rule."""
    slack = CROWDED_SLACK * (512 if state.view.role is Role.PREFILL else 1)
    is_crowded = load > max(least * CROWDED_FACTOR, least + slack)
    return is_crowded, -(state.num_cached_tokens(request) // PREFIX_STEP), load


def _round_robin() -> Policy:
    numbers = count()

    def policy(
        request: RouteRequest, table: WorkerTable, config: RoutingConfig, draw: float
    ) -> Ways:
        number = next(numbers)
        decodes, prefills = (
            sorted(s.view.worker_id for s in table.states(role))
            for role in (Role.DECODE, Role.PREFILL)
        )
        is_short = request.num_tokens <= REMOTE_TOKENS or not prefills
        prefill = "" if is_short else prefills[number % len(prefills)]
        return decodes[number % len(decodes)], prefill, 0.0

    return policy


def policies() -> dict[str, Policy]:
    """By name; made anew for each run, some of them remember."""
    return {
        "round robin": _round_robin(),
        "least load": _ranked(_least_load),
        "longest prefix": _ranked(_longest_prefix),
        "always local": _only(Prefill.LOCAL),
        "always remote": _only(Prefill.REMOTE),
        "ours": ours,
    }
