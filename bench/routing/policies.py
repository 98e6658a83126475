"""The policies compared: ours, ours with one hand tied, and rules that others use."""

from __future__ import annotations

from dataclasses import replace

from baton.policy.decision import Decision
from baton.policy.routing import choose
from baton.policy.rules import Chooser, Routing, chooser
from baton.policy.table import WorkerTable
from baton.policy.workers import Prefill, RouteRequest, RoutingConfig

OURS, LOCAL, REMOTE = "ours", "always local", "always remote"
RULES = {
    "round robin": Routing.ROUND_ROBIN,
    "least load": Routing.LEAST_LOAD,
    "longest prefix": Routing.LONGEST_PREFIX,
}


def _only(prefill: Prefill) -> Chooser:
    def policy(
        request: RouteRequest, table: WorkerTable, config: RoutingConfig, draw: float
    ) -> Decision:
        return choose(request, table, replace(config, prefill=prefill), draw)

    return policy


def policies() -> dict[str, Chooser]:
    """By name; made anew for each run, some of them remember."""
    return {
        **{name: chooser(rule) for name, rule in RULES.items()},
        LOCAL: _only(Prefill.LOCAL),
        REMOTE: _only(Prefill.REMOTE),
        OURS: choose,
    }
