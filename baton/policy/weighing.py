"""What serving a request costs in milliseconds: on a decode worker, by a prefill worker, together.

`docs/routing.md` has the formula with an example.
"""

from __future__ import annotations

from dataclasses import dataclass

from baton.policy.decision import Option
from baton.policy.workers import RouteRequest, RoutingConfig, WorkerState
from baton.request import Role

MISS_FROM, MISS_TO = 0.8, 1.2
"""A target is surely met below the first and surely missed above the second share of it: what is
predicted is some 20 % off."""

LATE_WEIGHT = 0.1
"""What waiting weighs once the target is missed: others must not be harmed to save what is lost."""


# None of these is frozen, that takes three times as long to make. Nobody changes one.
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


@dataclass(slots=True)
class PromptCost:
    """What computing the prompt takes on one worker."""

    state: WorkerState
    num_cached_tokens: int
    num_fetched_tokens: int
    num_computed_tokens: int
    queue_ms: float
    fetch_ms: float
    compute_ms: float
    steps: float
    """Steps that its own chunks take."""
    ready_ms: float
    """Until the prompt is computed: the sum of the three."""

    @classmethod
    def of(cls, request: RouteRequest, state: WorkerState) -> PromptCost:
        """Of a request: from its device's cache, then from kvstore where that is quicker."""
        num_tokens = request.num_tokens
        start = cached = state.num_cached_tokens(request)
        fetched, fetch_ms = 0, 0.0
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
                    start, fetched = stored, stored - cached
                    fetch_ms, total_ms = road_ms, less_ms
        computed = num_tokens - start
        compute_ms = total_ms - state.pending_ms
        return cls(
            state,
            cached,
            fetched,
            computed,
            state.queue_ms,
            fetch_ms,
            compute_ms,
            computed / state.budget,
            state.queue_ms + fetch_ms + compute_ms,
        )


@dataclass(slots=True)
class DecodeCost:
    """What having the sequence takes on one decode worker, whoever computes the prompt."""

    state: WorkerState
    prompt: PromptCost
    """Its own, should it compute the prompt."""
    room_ms: float
    """Until there are blocks for it."""
    join_ms: float
    """Steps that a hand-off waits for: one to reserve blocks, one to join the batch."""
    itl_ms: float
    """Between tokens with this sequence, before what its prompt does to them."""
    share_ms: float
    """Later tokens of all for as long as it stays, weighted."""
    missed_before: float
    """Share of the worker's streams that miss their target without it."""
    num_missing_tokens: int
    num_missing_bytes: int
    """Of blocks that it neither caches nor fetches: what a hand-off would move."""
    remote_rest_ms: float = 0.0
    """What a hand-off costs besides the TTFT, from whichever prefill worker."""

    @classmethod
    def of(
        cls, request: RouteRequest, state: WorkerState, aims: Aims, config: RoutingConfig
    ) -> DecodeCost:
        """Of a request."""
        prompt = PromptCost.of(request, state)
        view, num_streams, count = state.view, state.num_streams, request.num_sequences
        grown = state.turns * (state.next_ms * count + state.decode_context_ms * request.num_tokens)
        itl = state.itl_ms + grown
        tokens_ms = aims.output_tokens * (num_streams * grown + itl * count)
        block_size = view.block_size or 1
        needed = prompt.num_computed_tokens // block_size + count
        room_ms = 0.0
        if view.num_waiting or (
            view.num_blocks and view.num_used_blocks + needed > view.num_blocks
        ):
            # One of those that run ends, on average, every so many steps.
            room_ms = (view.num_waiting + 1) * aims.output_tokens * itl / max(1, view.num_running)
        num_missing = prompt.num_computed_tokens
        cost = cls(
            state,
            prompt,
            room_ms,
            # Half a step until the engine looks, then the step that it runs before it tells.
            2 * 1.5 * state.step_ms,
            state.seen_itl_ms + grown,
            config.share_weight * tokens_ms,
            miss_share(state.seen_itl_ms, config.target_itl_ms) if num_streams else 0.0,
            num_missing,
            -(-num_missing // block_size) * view.block_bytes,
        )
        misses_ms = aims.miss_ms * _itl_misses(cost, cost.itl_ms, aims, config)
        cost.remote_rest_ms = cost.share_ms + misses_ms + view.failure_ms
        return cost


def weigh(
    decode: DecodeCost, prefill: PromptCost | None, aims: Aims, config: RoutingConfig
) -> tuple[float, float, float, tuple[float, ...]]:
    """(cost, TTFT, time between tokens, terms) of one way to serve a request, in milliseconds.

    `prefill` is None where the decode worker computes the prompt.
    """
    state = decode.state
    fetch_ms = decode.prompt.fetch_ms
    handoff_ms = join_ms = stall_ms = failure_ms = 0.0
    if prefill is None:
        prompt = decode.prompt
        stall_ms = _stall_ms(decode)
    else:
        prompt = prefill
        # The decode worker fetches first, then opens the hand-off of what it still lacks.
        fetch_ms += prefill.fetch_ms
        handoff_ms = _handoff_ms(decode, prefill)
        join_ms = decode.join_ms
        failure_ms = prefill.state.view.failure_ms
    ttft_ms = decode.room_ms + prompt.queue_ms + fetch_ms + prompt.compute_ms
    ttft_ms += handoff_ms + join_ms
    itl_ms = decode.itl_ms + stall_ms / aims.output_tokens
    late_ms = max(0.0, ttft_ms - MISS_TO * aims.ttft_ms)
    terms = (
        decode.room_ms,
        prompt.queue_ms,
        fetch_ms,
        prompt.compute_ms,
        handoff_ms,
        join_ms,
        config.stall_weight * state.num_streams * stall_ms,
        decode.share_ms,
        aims.miss_ms * min(1.0, miss_share(ttft_ms, aims.ttft_ms)),
        (LATE_WEIGHT - 1.0) * late_ms,
        aims.miss_ms * _itl_misses(decode, itl_ms, aims, config),
        state.view.failure_ms + failure_ms,
    )
    return sum(terms), ttft_ms, itl_ms, terms


def local_cost(decode: DecodeCost, aims: Aims, config: RoutingConfig) -> tuple[float, float]:
    """(cost, TTFT) as `weigh` has them without a prefill worker, in half of the time."""
    ttft_ms = decode.room_ms + decode.prompt.ready_ms
    cost_ms = _with_miss_ms(ttft_ms, aims) + decode.remote_rest_ms
    stall_ms = _stall_ms(decode)
    if stall_ms:
        itl_ms = decode.itl_ms + stall_ms / aims.output_tokens
        more = _itl_misses(decode, itl_ms, aims, config)
        more -= _itl_misses(decode, decode.itl_ms, aims, config)
        num_streams = decode.state.num_streams
        cost_ms += config.stall_weight * num_streams * stall_ms + aims.miss_ms * more
    return cost_ms, ttft_ms


def remote_cost(decode: DecodeCost, prefill: PromptCost, aims: Aims) -> tuple[float, float]:
    """(cost, TTFT) as `weigh` has them for a prefill worker, in a third of the time."""
    handoff_ms = _handoff_ms(decode, prefill)
    ttft_ms = decode.room_ms + decode.prompt.fetch_ms + decode.join_ms
    ttft_ms += prefill.ready_ms + handoff_ms
    rest_ms = decode.remote_rest_ms + prefill.state.view.failure_ms
    return _with_miss_ms(ttft_ms, aims) + rest_ms, ttft_ms


_SMALLEST = RouteRequest(num_tokens=1)


def floor_ms(state: WorkerState, config: RoutingConfig) -> float:
    """What the smallest request would cost on a worker: no request costs less there."""
    if state.view.role is Role.PREFILL:
        return PromptCost.of(_SMALLEST, state).ready_ms + state.view.failure_ms
    aims = Aims.of(_SMALLEST, config)
    return local_cost(DecodeCost.of(_SMALLEST, state, aims, config), aims, config)[0]


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
    prompt = decode.prompt
    return max(0.0, prompt.compute_ms - prompt.steps * decode.state.itl_ms)


def _itl_misses(decode: DecodeCost, itl_ms: float, aims: Aims, config: RoutingConfig) -> float:
    """How many more sequences of the worker miss their ITL target, this one included."""
    own_missed = min(1.0, miss_share(itl_ms, aims.itl_ms))
    num_streams = decode.state.num_streams
    if not num_streams:
        return own_missed
    missed = miss_share(itl_ms, config.target_itl_ms)
    return num_streams * (missed - decode.missed_before) + own_missed


def _handoff_ms(decode: DecodeCost, prefill: PromptCost) -> float:
    """The part of a hand-off that computing does not hide: at least that of the last chunk."""
    state = prefill.state
    road = decode.state.view.learned.road(state.view.worker_id)
    moving_ms = decode.num_missing_bytes / road.bytes_per_us / 1e3
    exposed_ms = moving_ms
    if decode.num_missing_tokens > state.budget:
        exposed_ms = moving_ms * state.budget / decode.num_missing_tokens
    hidden_too_ms = moving_ms - prefill.compute_ms
    return road.setup_us / 1e3 + (hidden_too_ms if hidden_too_ms > exposed_ms else exposed_ms)


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
