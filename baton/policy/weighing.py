"""What serving a request costs in milliseconds: on a decode worker, by a prefill worker, together.

`docs/routing.md` has the formula with an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from baton.policy.decision import Option
from baton.policy.learned import should_fetch_first
from baton.policy.workers import RouteRequest, RoutingConfig, WorkerState
from baton.request import Role

MISS_FROM, MISS_TO = 0.8, 1.2
"""A target is surely met below the first and surely missed above the second share of it: what is
predicted is some 20 % off."""

LATE_WEIGHT = 0.1
"""What waiting weighs once the target is missed: others must not be harmed to save what is lost."""


# Not frozen, that takes three times as long to make. Nobody changes one.
@dataclass(slots=True)
class Aims:
    """What one request is weighed by."""

    ttft_ms: float
    itl_ms: float
    output_tokens: float
    miss_ms: float
    """What one missed target costs."""

    @classmethod
    def of(cls, request: RouteRequest, config: RoutingConfig) -> Aims:
        """The request's own, or the configured ones."""
        ttft_ms = request.target_ttft_ms or config.target_ttft_ms
        return cls(
            ttft_ms,
            request.target_itl_ms or config.target_itl_ms,
            max(1.0, request.expected_output_tokens or config.output_tokens),
            config.miss_factor * config.target_ttft_ms,
        )


def miss_share(predicted_ms: float, target_ms: float) -> float:
    """How likely a target is missed, linear from 0 at `MISS_FROM` of it to 1 at `MISS_TO`.

    It goes on above 1: how far a worker is behind matters for those that come after this request.
    """
    share = predicted_ms / target_ms
    return (share - MISS_FROM) / (MISS_TO - MISS_FROM) if share > MISS_FROM else 0.0


def waiting_ms(ttft_ms: float, aims: Aims) -> float:
    """What waiting for the first token costs by itself: little more once it is too late."""
    late_ms = ttft_ms - MISS_TO * aims.ttft_ms
    return ttft_ms if late_ms <= 0 else ttft_ms - (1.0 - LATE_WEIGHT) * late_ms


# No dataclasses: a decision makes some of each, and these take half the time.
class PromptCost:
    """What computing the prompt takes on one worker: of its device's cache, then of kvstore where
    that is quicker, and the rest computed."""

    __slots__ = (
        "compute_ms",
        "fetch_ms",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_fetched_tokens",
        "ready_ms",
        "state",
    )

    def __init__(self, request: RouteRequest, state: WorkerState) -> None:
        num_tokens = request.num_tokens
        cached = state.num_cached_tokens(request)
        start, fetch_ms = cached, 0.0
        total_ms = state.prompt_ms(num_tokens - cached, cached)
        if request.num_stored_blocks and state.view.learned.fetch is not None:
            view, road = state.view, state.view.learned.fetch
            stored = min(request.num_stored_blocks * view.block_size, num_tokens - 1)
            if stored > cached:
                num_blocks = (stored - cached) // view.block_size
                stored = cached + num_blocks * view.block_size
                road_ms = road.us(num_blocks * view.block_bytes) / 1e3
                less_ms = state.prompt_ms(num_tokens - stored, stored)
                if road_ms + less_ms < total_ms:
                    start, fetch_ms, total_ms = stored, road_ms, less_ms
        compute_ms = total_ms - state.pending_ms
        self.state = state
        self.num_cached_tokens = cached
        self.num_fetched_tokens = start - cached
        self.num_computed_tokens = num_tokens - start
        self.fetch_ms = fetch_ms
        self.compute_ms = compute_ms
        self.ready_ms = state.queue_ms + fetch_ms + compute_ms
        """Until the prompt is computed: the worker's queue, and these two."""


class DecodeCost:
    """What having the sequence takes on one decode worker, whoever computes the prompt."""

    __slots__ = (
        "itl_ms",
        "join_ms",
        "misses",
        "num_missing_bytes",
        "num_missing_tokens",
        "prompt",
        "rest_ms",
        "room_ms",
        "share_ms",
        "state",
    )

    def __init__(
        self, request: RouteRequest, state: WorkerState, aims: Aims, config: RoutingConfig
    ) -> None:
        view, num_streams, count = state.view, state.num_streams, request.num_sequences
        self.state = state
        self.prompt = prompt = PromptCost(request, state)
        """Its own, should it compute the prompt."""
        grown = state.turns * (state.next_ms * count + state.decode_context_ms * request.num_tokens)
        itl = state.itl_ms + grown
        block_size = view.block_size or 1
        needed = prompt.num_computed_tokens // block_size + count
        room_ms = 0.0
        if view.num_waiting or view.num_used_blocks + needed > (view.num_blocks or inf):
            # One of those that run ends, on average, every so many steps.
            room_ms = (view.num_waiting + 1) * aims.output_tokens * itl / max(1, view.num_running)
        self.room_ms = room_ms
        """Until there are blocks for it."""
        # Half a step until the engine looks, then the step that it runs before it tells.
        self.join_ms = 2 * 1.5 * state.step_ms
        """Steps that a hand-off waits for: one to reserve blocks, one to join the batch."""
        self.itl_ms = state.seen_itl_ms + grown
        """Between tokens with this sequence, before what its prompt does to them."""
        tokens_ms = aims.output_tokens * (num_streams * grown + itl * count)
        self.share_ms = config.share_weight * tokens_ms
        """Later tokens of all for as long as it stays, weighted."""
        self.num_missing_tokens = num_missing = prompt.num_computed_tokens
        self.num_missing_bytes = -(-num_missing // block_size) * view.block_bytes
        """Of blocks that it neither caches nor would fetch: what a hand-off moves at least."""
        self.misses = itl_misses(state, self.itl_ms, aims, config)
        """How many more sequences than without it miss their ITL target."""
        self.rest_ms = self.share_ms + aims.miss_ms * self.misses + view.failure_ms
        """All besides the TTFT, but for what its prompt does to running streams."""


def weigh(
    decode: DecodeCost, prefill: PromptCost | None, aims: Aims, config: RoutingConfig
) -> tuple[float, float, float, tuple[float, ...]]:
    """(cost, TTFT, time between tokens, terms) of one way to serve a request, in milliseconds.

    `prefill` is None where the decode worker computes the prompt.
    """
    state = decode.state
    handoff_ms = join_ms = stall_ms = failure_ms = 0.0
    if prefill is None:
        prompt = decode.prompt
        fetch_ms = prompt.fetch_ms
        stall_ms = _stall_ms(decode)
    else:
        prompt = prefill
        first_ms, handoff_ms = _arrival_ms(decode, prefill)
        fetch_ms = first_ms + prefill.fetch_ms
        join_ms = decode.join_ms
        failure_ms = prefill.state.view.failure_ms
    ttft_ms = decode.room_ms + prompt.state.queue_ms + fetch_ms + prompt.compute_ms
    ttft_ms += handoff_ms + join_ms
    itl_ms = decode.itl_ms + stall_ms / aims.output_tokens
    late_ms = max(0.0, ttft_ms - MISS_TO * aims.ttft_ms)
    terms = (
        decode.room_ms,
        prompt.state.queue_ms,
        fetch_ms,
        prompt.compute_ms,
        handoff_ms,
        join_ms,
        config.stall_weight * state.num_streams * stall_ms,
        decode.share_ms,
        aims.miss_ms * min(1.0, miss_share(ttft_ms, aims.ttft_ms)),
        (LATE_WEIGHT - 1.0) * late_ms,
        aims.miss_ms * itl_misses(state, itl_ms, aims, config),
        state.view.failure_ms + failure_ms,
    )
    return sum(terms), ttft_ms, itl_ms, terms


def local_cost(decode: DecodeCost, aims: Aims, config: RoutingConfig) -> tuple[float, float]:
    """(cost, TTFT) as `weigh` has them without a prefill worker, in half of the time."""
    ttft_ms = decode.room_ms + decode.prompt.ready_ms
    cost_ms = _with_miss_ms(ttft_ms, aims) + decode.rest_ms
    stall_ms = _stall_ms(decode)
    if stall_ms:
        state = decode.state
        itl_ms = decode.itl_ms + stall_ms / aims.output_tokens
        more = itl_misses(state, itl_ms, aims, config) - decode.misses
        cost_ms += config.stall_weight * state.num_streams * stall_ms + aims.miss_ms * more
    return cost_ms, ttft_ms


def remote_cost(decode: DecodeCost, prefill: PromptCost, aims: Aims) -> tuple[float, float]:
    """(cost, TTFT) as `weigh` has them for a prefill worker, in a third of the time."""
    first_ms, handoff_ms = _arrival_ms(decode, prefill)
    ttft_ms = decode.room_ms + first_ms + decode.join_ms
    ttft_ms += prefill.ready_ms + handoff_ms
    rest_ms = decode.rest_ms + prefill.state.view.failure_ms
    return _with_miss_ms(ttft_ms, aims) + rest_ms, ttft_ms


_SMALLEST = RouteRequest(num_tokens=1)


def floor_ms(state: WorkerState, config: RoutingConfig) -> float:
    """What the smallest request would cost on a worker: no request costs less there."""
    if state.view.role is Role.PREFILL:
        return PromptCost(_SMALLEST, state).ready_ms + state.view.failure_ms
    aims = Aims.of(_SMALLEST, config)
    return local_cost(DecodeCost(_SMALLEST, state, aims, config), aims, config)[0]


TERMS = (
    "room",
    "queue",
    "fetch",
    "compute",
    "handoff",
    "join",
    "stall",
    "share",
    "miss_ttft",
    "late",
    "miss_itl",
    "failure",
)
"""Names of what `weigh` adds up, in order. The first six are the predicted TTFT."""


def _with_miss_ms(ttft_ms: float, aims: Aims) -> float:
    """Waiting for the first token, and what it costs to miss the target with it."""
    share = ttft_ms / aims.ttft_ms
    if share <= MISS_FROM:
        return ttft_ms
    if share <= MISS_TO:
        return ttft_ms + aims.miss_ms * (share - MISS_FROM) / (MISS_TO - MISS_FROM)
    return waiting_ms(ttft_ms, aims) + aims.miss_ms


def _stall_ms(decode: DecodeCost) -> float:
    """How long its prompt holds up each stream: during a chunk each still gets a token a step."""
    prompt, state = decode.prompt, decode.state
    stall_ms = prompt.compute_ms - prompt.num_computed_tokens / state.budget * state.itl_ms
    return stall_ms if stall_ms > 0.0 else 0.0


def itl_misses(state: WorkerState, itl_ms: float, aims: Aims, config: RoutingConfig) -> float:
    """How many more sequences of a worker miss their ITL target at this pace, the new one included.

    Its streams are judged by the default target, the new one by its own.
    """
    own_missed = min(1.0, miss_share(itl_ms, aims.itl_ms))
    if not state.num_streams:
        return own_missed
    target_ms = config.target_itl_ms
    more = miss_share(itl_ms, target_ms) - miss_share(state.seen_itl_ms, target_ms)
    return state.num_streams * more + own_missed


def _arrival_ms(decode: DecodeCost, prefill: PromptCost) -> tuple[float, float]:
    """What the decode worker fetches before a hand-off, and the part of the hand-off that computing
    does not hide: at least that of the last chunk."""
    state, learned = prefill.state, decode.state.view.learned
    road = learned.road(state.view.worker_id)
    num_tokens, num_bytes = decode.num_missing_tokens, decode.num_missing_bytes
    first_ms = decode.prompt.fetch_ms
    if first_ms and learned.fetch is not None:
        view = decode.state.view
        num_lacking = num_tokens + decode.prompt.num_fetched_tokens
        lacking_bytes = -(-num_lacking // (view.block_size or 1)) * view.block_bytes
        if not should_fetch_first(learned.fetch, road, lacking_bytes):
            first_ms, num_tokens, num_bytes = 0.0, num_lacking, lacking_bytes
    moving_ms = num_bytes / road.bytes_per_us / 1e3
    exposed_ms = moving_ms
    if num_tokens > state.budget:
        exposed_ms = moving_ms * state.budget / num_tokens
    hidden_too_ms = moving_ms - prefill.compute_ms
    handoff_ms = road.setup_us / 1e3
    return first_ms, handoff_ms + (hidden_too_ms if hidden_too_ms > exposed_ms else exposed_ms)


def option(
    decode: DecodeCost, prefill: PromptCost | None, aims: Aims, config: RoutingConfig
) -> Option:
    """One way to serve a request with all its terms by name."""
    cost_ms, ttft_ms, itl_ms, terms = weigh(decode, prefill, aims, config)
    prompt = prefill or decode.prompt
    return Option(
        decode_worker_id=decode.state.view.worker_id,
        prefill_worker_id=prefill.state.view.worker_id if prefill is not None else "",
        cost_ms=cost_ms,
        ttft_ms=ttft_ms,
        itl_ms=itl_ms,
        num_cached_tokens=decode.prompt.num_cached_tokens,
        num_fetched_tokens=prompt.num_fetched_tokens,
        num_computed_tokens=prompt.num_computed_tokens,
        terms=tuple(zip(TERMS, terms, strict=True)),
    )
