"""Where a request goes: its decode worker, and who computes its prompt.

The rule: the longest cached prefix, then the least load; saturated and crowded workers come last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton.policy.decision import Candidate, Choice, Decision, Rejected, Standing
from baton.request import Role


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """The rule's numbers."""

    remote_threshold_tokens: int | None = 64
    """More uncached tokens than this are computed remotely; None: never."""
    prefix_step_tokens: int = 64
    """Cached prefixes are compared in steps of this: a shared first block decides nothing."""
    queue_step_tokens: int = 64
    """Queues of prefill workers are compared in steps of this."""
    saturated_num_waiting: int = 4
    """Decode: this many sequences waiting for blocks mean that one more will wait too."""
    saturated_used_share: float = 0.95
    """Decode: share of blocks held, the new sequence's included, that may lead to preemption."""
    saturated_queue_tokens: int = 16_384
    """Prefill: queued tokens from which on another worker is better, whatever it has cached."""
    tokens_as_sequence: int = 256
    """Decode: this many tokens still to compute weigh as much as one sequence."""
    crowded_factor: float = 1.5
    """A worker with more than this times the least load, and the slack below, is crowded."""
    crowded_slack_sequences: int = 8
    """Decode: sequences above the least loaded worker that a cached prefix is worth."""
    crowded_slack_tokens: int = 4096
    """Prefill: queued tokens above the least loaded worker that a cached prefix is worth."""


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What routing needs to know of a request."""

    num_tokens: int
    """Known tokens: the prompt, then what was emitted before a migration."""
    num_sequences: int = 1
    """Samples to draw; they share the prompt's blocks."""
    excluded: frozenset[str] = frozenset()
    """Workers that must not take it, such as the one it was just lost on."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What is known of a worker at this moment, all of it possibly a little old."""

    worker_id: str
    role: Role
    namespace: str = ""
    """Only workers of one namespace may hand blocks to each other."""
    block_size: int = 16
    num_blocks: int = 0
    num_cached_blocks: int = 0
    """Leading blocks of this request that it caches."""
    num_running: int = 0
    num_waiting: int = 0
    num_receiving: int = 0
    num_queued_tokens: int = 0
    """Known tokens that it still has to compute."""
    num_used_blocks: int = 0
    num_booked_sequences: int = 0
    """Promised by gateways, not reported by the worker yet."""
    num_booked_tokens: int = 0
    is_reachable: bool = True
    is_draining: bool = False

    @property
    def num_sequences(self) -> int:
        """Sequences that it has or is about to have."""
        busy = self.num_running + self.num_waiting + self.num_receiving
        return busy + self.num_booked_sequences

    @property
    def num_pending_tokens(self) -> int:
        """Tokens that it has or is about to have to compute."""
        return self.num_queued_tokens + self.num_booked_tokens

    def num_cached_tokens(self, request: RouteRequest) -> int:
        """The request's tokens that it need not compute; the last one always is."""
        cached = self.num_cached_blocks * self.block_size
        return max(0, min(cached, request.num_tokens - 1))

    def num_needed_blocks(self, request: RouteRequest) -> int:
        """Blocks that it has to find: those of the uncached prompt, and one per sample."""
        uncached = request.num_tokens - self.num_cached_tokens(request)
        return uncached // max(1, self.block_size) + request.num_sequences


@dataclass(frozen=True, slots=True)
class _Part:
    """How one of the two parts is filled."""

    role: Role
    load: Callable[[WorkerView], int]
    is_saturated: Callable[[RouteRequest, WorkerView], bool]
    load_step: int
    slack: int
    namespace: str | None = None


def choose(
    request: RouteRequest, workers: Sequence[WorkerView], config: RoutingConfig, draw: float
) -> Decision:
    """Chooses among the workers of the request's model.

    `draw`, in [0, 1), breaks ties: gateways that draw at random do not all run to the same worker.
    """
    decode = _fill(_decode_part(config), request, workers, config, draw)
    if decode.worker_id is None:
        return Decision(decode, Choice(None, "no decode worker"))
    num_uncached = request.num_tokens - decode.num_cached_tokens
    if config.remote_threshold_tokens is None:
        return Decision(decode, Choice(None, "remote prefill is off"), num_uncached)
    if num_uncached <= config.remote_threshold_tokens:
        reason = f"{num_uncached} uncached tokens do not exceed {config.remote_threshold_tokens}"
        return Decision(decode, Choice(None, reason), num_uncached)
    chosen = next(view for view in workers if view.worker_id == decode.worker_id)
    prefill = _fill(_prefill_part(config, chosen.namespace), request, workers, config, draw)
    return Decision(decode, prefill, num_uncached)


def _decode_part(config: RoutingConfig) -> _Part:
    def is_saturated(request: RouteRequest, view: WorkerView) -> bool:
        limit = config.saturated_used_share * view.num_blocks
        is_full = view.num_used_blocks + view.num_needed_blocks(request) > limit > 0
        return is_full or view.num_waiting >= config.saturated_num_waiting

    return _Part(
        role=Role.DECODE,
        load=lambda view: (
            view.num_sequences + view.num_pending_tokens // max(1, config.tokens_as_sequence)
        ),
        is_saturated=is_saturated,
        load_step=1,
        slack=config.crowded_slack_sequences,
    )


def _prefill_part(config: RoutingConfig, namespace: str) -> _Part:
    return _Part(
        role=Role.PREFILL,
        load=lambda view: view.num_pending_tokens,
        is_saturated=lambda _, view: view.num_pending_tokens >= config.saturated_queue_tokens,
        load_step=max(1, config.queue_step_tokens),
        slack=config.crowded_slack_tokens,
        namespace=namespace,
    )


def _fill(
    part: _Part,
    request: RouteRequest,
    workers: Sequence[WorkerView],
    config: RoutingConfig,
    draw: float,
) -> Choice:
    """Ranks the workers of the part's role and takes the best."""
    ours = sorted((v for v in workers if v.role is part.role), key=lambda v: v.worker_id)
    reasons = {view.worker_id: _refusal(part, request, view) for view in ours}
    usable = [view for view in ours if not reasons[view.worker_id]]
    rejected = tuple(Rejected(name, reason) for name, reason in reasons.items() if reason)
    if not usable:
        return Choice(None, f"no {part.role.name.lower()} worker can take it", (), rejected)
    least = min(part.load(view) for view in usable)
    limit = max(least * config.crowded_factor, least + part.slack)
    candidates = sorted(
        (_weigh(part, request, view, config, limit) for view in usable),
        key=lambda candidate: candidate.rank,
    )
    best = [entry for entry in candidates if entry.rank == candidates[0].rank]
    winner = best[min(int(draw * len(best)), len(best) - 1)]
    return Choice(
        winner.worker_id,
        _reason(candidates, best),
        tuple(candidates),
        rejected,
        winner.num_cached_tokens,
    )


def _refusal(part: _Part, request: RouteRequest, view: WorkerView) -> str:
    """Why a worker cannot take the part; empty when it can."""
    if view.worker_id in request.excluded:
        return "is excluded"
    if not view.is_reachable:
        return "is unreachable"
    if view.is_draining:
        return "is draining"
    if part.namespace is not None and view.namespace != part.namespace:
        return "has other blocks"
    if 0 < view.num_blocks * view.block_size < request.num_tokens:
        return "is too small"
    return ""


def _weigh(
    part: _Part, request: RouteRequest, view: WorkerView, config: RoutingConfig, limit: float
) -> Candidate:
    load = part.load(view)
    standing = Standing.CROWDED if load > limit else Standing.OPEN
    if part.is_saturated(request, view):
        standing = Standing.SATURATED
    cached = view.num_cached_tokens(request)
    steps = -(cached // max(1, config.prefix_step_tokens))
    rank = (standing.value, steps, load // part.load_step)
    return Candidate(view.worker_id, standing, cached, load, rank)


def _reason(candidates: list[Candidate], best: list[Candidate]) -> str:
    """What set the winner apart from the next best."""
    if len(candidates) == 1:
        return "the only one"
    if len(best) > 1:
        return f"drawn among {len(best)} equals"
    winner, runner_up = candidates[0].rank, candidates[1].rank
    where = next(at for at in range(3) if winner[at] != runner_up[at])
    return ("others are crowded or saturated", "longest prefix", "least load")[where]
