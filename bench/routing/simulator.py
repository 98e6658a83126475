"""Gateways on a virtual clock: they see workers and others' bookings late, and route."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from baton.engine.step_times import StepTimes
from baton.policy.rules import Chooser
from baton.policy.table import WorkerTable
from baton.policy.workers import RouteRequest, RoutingConfig, WorkerView
from baton.registry.timing import Timing
from bench.routing.fleet import Clock, Fleet, FleetSpec, Flight, Published
from bench.routing.traces import Trace, TraceRequest

TIMING = Timing()
NEWS_S = TIMING.load_interval_s + TIMING.poll_s + 0.1
"""As in `BookingBoard`: for so long a worker's word may not contain what was booked."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What a request must meet to count."""

    ttft_ms: float = 1000.0
    itl_ms: float = 25.0


@dataclass(frozen=True, slots=True)
class Result:
    """One simulated run."""

    num_requests: int
    num_good: int
    goodput: float
    """Requests that met both targets, per second of the trace."""
    ttft_p50_ms: float
    ttft_p90_ms: float
    itl_p50_ms: float
    itl_p90_ms: float
    remote_share: float
    cached_share: float
    """Of all prompt tokens."""
    prediction_error_ms: float
    """Median difference between predicted and real TTFT."""


class _Books:
    """A gateway's bookings: what it has at workers, what is new, what has gone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sequences: dict[str, int] = defaultdict(int)
        self.tokens: dict[str, int] = defaultdict(int)
        self._recent: dict[str, deque[tuple[float, int, int, int]]] = defaultdict(deque)

    def book(self, worker_id: str, sequences: int, tokens: int) -> None:
        """Positive to promise, negative to take back."""
        self.sequences[worker_id] += sequences
        self.tokens[worker_id] += tokens
        new = max(0, tokens)
        gone = (max(0, -sequences), max(0, -tokens))
        self._recent[worker_id].append((self._clock.now + NEWS_S, new, *gone))

    def recent(self, worker_id: str) -> tuple[int, int, int]:
        """(new tokens, gone sequences, gone tokens)."""
        entries = self._recent[worker_id]
        while entries and entries[0][0] <= self._clock.now:
            entries.popleft()
        new = sum(entry[1] for entry in entries)
        return (
            min(new, self.tokens[worker_id]),
            sum(entry[2] for entry in entries),
            sum(entry[3] for entry in entries),
        )


class _Gateway:
    """Routes what arrives at it."""

    def __init__(self, run: Run, index: int) -> None:
        self._run = run
        self.books = _Books(run.clock)
        self.others: dict[str, tuple[int, int, int]] = {}
        self._words: Mapping[str, Published] = {}
        self._rng = random.Random(index)
        self._output_tokens = 0.0

    def look(self) -> None:
        """Reads what workers say: every 0.25 s."""
        self._words = {name: w.published for name, w in self._run.fleet.workers.items()}
        self._again(TIMING.poll_s, self.look)

    def share(self) -> None:
        """Reads what other gateways have booked: every 0.1 s."""
        total: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for other in self._run.gateways:
            if other is not self:
                for name in self._run.fleet.workers:
                    at = total[name]
                    at[0] += other.books.sequences[name]
                    at[1] += other.books.tokens[name]
                    at[2] += other.books.recent(name)[0]
        self.others = {name: (at[0], at[1], at[2]) for name, at in total.items()}
        self._again(TIMING.booking_interval_s, self.share)

    def route(self, request: TraceRequest) -> None:
        """Decides and submits."""
        run = self._run
        workers = run.fleet.workers
        depths = {name: worker.cache.depth(request.blocks) for name, worker in workers.items()}
        blocks = run.trace.block_tokens
        wanted = RouteRequest(
            num_tokens=request.num_tokens,
            cached_blocks={name: depth for name, depth in depths.items() if depth},
            expected_output_tokens=self._output_tokens,
        )
        table = WorkerTable([self._view(name, blocks) for name in workers], run.config)
        decision = run.choose(wanted, table, run.config, self._rng.random())
        decode, prefill = decision.decode_worker_id, decision.prefill_worker_id
        flight = Flight(request, run.clock.now, predicted_ttft_ms=decision.ttft_ms)
        computer = prefill or decode
        cached = min(depths[computer] * blocks, request.num_tokens - 1)
        run.num_cached += cached
        left = request.num_tokens - cached
        self.books.book(decode, 1, 0 if prefill else left)
        if prefill:
            self.books.book(prefill, 1, left)

        def first_token() -> None:
            if prefill:
                self.books.book(prefill, -1, -left)
            else:
                self.books.book(decode, 0, -left)

        def end() -> None:
            self.books.book(decode, -1, 0)
            known = self._output_tokens or request.num_output_tokens
            self._output_tokens = known + 0.02 * (request.num_output_tokens - known)
            run.landed(flight)

        flight.on_first_token, flight.on_end = first_token, end
        run.fleet.submit(flight, decode, prefill)

    def _view(self, name: str, block_tokens: int) -> WorkerView:
        worker = self._run.fleet.workers[name]
        word = self._words.get(name, Published())
        new, gone_sequences, gone_tokens = self.books.recent(name)
        sequences, tokens, others_new = self.others.get(name, (0, 0, 0))
        return WorkerView(
            worker_id=name,
            role=worker.role,
            block_size=block_tokens,
            block_bytes=block_tokens * self._run.fleet.spec.token_bytes,
            num_running=word.num_running,
            num_receiving=word.num_receiving,
            num_queued_tokens=word.num_queued_tokens,
            num_used_blocks=word.num_context_tokens // block_tokens,
            num_booked_sequences=self.books.sequences[name] + sequences,
            num_booked_tokens=self.books.tokens[name] + tokens,
            num_new_tokens=new + others_new,
            num_gone_sequences=gone_sequences,
            num_gone_tokens=gone_tokens,
            learned=word.learned,
        )

    def _again(self, seconds: float, run: Callable[[], None]) -> None:
        if not self._run.is_over:
            self._run.clock.after(seconds, run)


class Run:
    """A trace through a fleet under a policy."""

    def __init__(
        self,
        trace: Trace,
        choose: Chooser,
        times: StepTimes,
        *,
        spec: FleetSpec | None = None,
        config: RoutingConfig | None = None,
        num_gateways: int = 1,
    ) -> None:
        self.trace, self.choose = trace, choose
        self.config = config or RoutingConfig()
        self.clock = Clock()
        self.fleet = Fleet(spec or FleetSpec(), self.clock, times, trace.block_tokens)
        self.gateways = [_Gateway(self, index) for index in range(num_gateways)]
        self.num_cached = 0
        self._flights: list[Flight] = []

    @property
    def is_over(self) -> bool:
        """Whether all requests have ended."""
        return len(self._flights) == len(self.trace.requests)

    def landed(self, flight: Flight) -> None:
        """A request has ended."""
        self._flights.append(flight)

    def result(self, targets: Targets) -> Result:
        """Runs to the end."""
        for index, gateway in enumerate(self.gateways):
            self.clock.after(0.013 * index, gateway.look)
            self.clock.after(0.007 * index, gateway.share)
        for index, request in enumerate(self.trace.requests):
            gateway = self.gateways[index % len(self.gateways)]
            self.clock.at(request.at_s, lambda g=gateway, r=request: g.route(r))  # type: ignore[misc]
        self.clock.run()
        return self._summary(targets)

    def _summary(self, targets: Targets) -> Result:
        flights = self._flights
        ttfts = sorted(flight.ttft_ms for flight in flights)
        itls = sorted(flight.itl_ms for flight in flights)
        errors = sorted(abs(flight.ttft_ms - flight.predicted_ttft_ms) for flight in flights)
        num_good = sum(f.ttft_ms <= targets.ttft_ms and f.itl_ms <= targets.itl_ms for f in flights)
        num_tokens = sum(request.num_tokens for request in self.trace.requests)
        return Result(
            num_requests=len(flights),
            num_good=num_good,
            goodput=num_good / max(self.trace.span_s, 1e-9),
            ttft_p50_ms=_rank(ttfts, 0.5),
            ttft_p90_ms=_rank(ttfts, 0.9),
            itl_p50_ms=_rank(itls, 0.5),
            itl_p90_ms=_rank(itls, 0.9),
            remote_share=sum(flight.is_remote for flight in flights) / len(flights),
            cached_share=self.num_cached / num_tokens,
            prediction_error_ms=_rank(errors, 0.5),
        )


def _rank(ordered: list[float], share: float) -> float:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
