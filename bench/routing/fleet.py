"""Simulated workers: an engine's steps on a virtual clock, with a prefix cache and hand-offs."""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count

from baton.engine.step_times import StepTimes
from baton.policy.learned import NOTHING_LEARNED, Learned, WorkerLearner
from baton.request import Role
from bench.routing.traces import TraceRequest

TRANSIT_S = 0.001
"""From one process to another."""


class Clock:
    """Virtual time: runs what is due, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, time_s: float, run: Callable[[], None]) -> None:
        """Has `run` called at a time, or now if that is over."""
        heapq.heappush(self._due, (max(time_s, self.now), next(self._numbers), run))

    def after(self, seconds: float, run: Callable[[], None]) -> None:
        """Has `run` called in so many seconds."""
        self.at(self.now + seconds, run)

    def run(self) -> None:
        """Runs until nothing is due any more."""
        while self._due:
            self.now, _, call = heapq.heappop(self._due)
            call()


# Not frozen: these live from arrival to end.
@dataclass(slots=True, eq=False)
class Flight:
    """One request on its way."""

    request: TraceRequest
    arrived_at: float
    first_token_at: float = 0.0
    ended_at: float = 0.0
    is_remote: bool = False
    predicted_ttft_ms: float = 0.0
    on_first_token: Callable[[], None] = lambda: None
    on_end: Callable[[], None] = lambda: None

    @property
    def ttft_ms(self) -> float:
        """From arrival to the first token."""
        return 1e3 * (self.first_token_at - self.arrived_at)

    @property
    def itl_ms(self) -> float:
        """Mean time between tokens."""
        gaps = max(1, self.request.num_output_tokens - 1)
        return 1e3 * (self.ended_at - self.first_token_at) / gaps


@dataclass(slots=True, eq=False)
class _Prompt:
    """A prompt that a worker computes."""

    flight: Flight
    num_left: int
    num_computed: int
    done: Callable[[float], None]
    """Gets the seconds that computing took, queueing excluded."""
    began_at: float = -1.0


class PrefixCache:
    """Which prefix blocks a worker holds, the least recently used going first."""

    def __init__(self, num_blocks: int) -> None:
        self._num_blocks = num_blocks
        self._held: OrderedDict[int, None] = OrderedDict()

    def depth(self, blocks: Sequence[int]) -> int:
        """Leading blocks that are held."""
        for index, block in enumerate(blocks):
            if block not in self._held:
                return index
        return len(blocks)

    def add(self, blocks: Sequence[int]) -> None:
        """Holds these from now on, the first of them longest."""
        for block in reversed(blocks):
            self._held[block] = None
            self._held.move_to_end(block)
        while len(self._held) > self._num_blocks:
            self._held.popitem(last=False)


@dataclass(frozen=True, slots=True)
class FleetSpec:
    """What is simulated."""

    num_prefill: int = 2
    num_decode: int = 2
    max_batch_tokens: int = 512
    max_sequences: int = 64
    cache_tokens: int = 200_000
    """Per worker."""
    token_bytes: int = 131_072
    """KV of one token: 8 billion weights, 16-bit."""
    road_bytes_per_s: float = 20e9
    setup_s: float = 0.0015


class SimulatedWorker:
    """One engine: prompts in turn, a token a step for each sequence that decodes."""

    def __init__(
        self,
        name: str,
        role: Role,
        clock: Clock,
        step_us: Callable[[int, int, int], float],
        spec: FleetSpec,
        block_tokens: int,
    ) -> None:
        self.name, self.role = name, role
        self.cache = PrefixCache(spec.cache_tokens // block_tokens)
        self.learner = WorkerLearner(spec.max_batch_tokens, spec.max_sequences)
        self.published = Published()
        self._clock, self._step_us, self._spec = clock, step_us, spec
        self._block_tokens = block_tokens
        self._posts: list[Callable[[], None]] = []
        """Run when the next step begins; what they return to others is told when it ends."""
        self._news: list[Callable[[], None]] = []
        self._prompts: deque[_Prompt] = deque()
        self._ends: list[tuple[float, int, Flight]] = []
        """Running sequences by the turn in which they end."""
        self._numbers = count()
        self._turns = 0.0
        self._num_context = 0.0
        self._num_receiving = 0
        self._is_stepping = False
        self._published_at = -1.0

    @property
    def num_queued_tokens(self) -> int:
        """Prompt tokens still to compute."""
        return sum(prompt.num_left for prompt in self._prompts)

    def num_cached_tokens(self, request: TraceRequest) -> int:
        """Of a prompt; the last token is always computed."""
        depth = self.cache.depth(request.blocks)
        return min(depth * self._block_tokens, request.num_tokens - 1)

    def compute(self, flight: Flight, done: Callable[[float], None]) -> None:
        """Computes a prompt, then calls back."""

        def start() -> None:
            cached = self.num_cached_tokens(flight.request)
            left = flight.request.num_tokens - cached
            self._prompts.append(_Prompt(flight, left, cached, done))

        self._post(start)

    def reserve(self, then: Callable[[], None]) -> None:
        """Reserves blocks for a hand-off: the engine tells behind the step in which it did."""
        self._num_receiving += 1
        self._post(lambda: self._news.append(then))

    def join(self, flight: Flight) -> None:
        """A handed-over sequence joins the batch; its token goes out behind that step."""

        def start() -> None:
            self._num_receiving -= 1
            self.cache.add(flight.request.blocks)
            self._news.append(lambda: self._first_token(flight))

        self._post(start)

    def decode(self, flight: Flight) -> None:
        """A sequence whose prompt is computed here, or has joined."""
        num_turns = flight.request.num_output_tokens - 1
        self._num_context += flight.request.num_tokens
        entry = (self._turns + num_turns, next(self._numbers), flight)
        heapq.heappush(self._ends, entry)

    def _first_token(self, flight: Flight) -> None:
        flight.first_token_at = self._clock.now
        flight.on_first_token()
        self.decode(flight)

    def _post(self, run: Callable[[], None]) -> None:
        self._posts.append(run)
        if not self._is_stepping:
            self._step()

    def _step(self) -> None:
        posts, self._posts = self._posts, []
        for post in posts:
            post()
        num_running = min(len(self._ends), self._spec.max_sequences)
        num_tokens, num_context, chunks = self._plan(self._spec.max_batch_tokens - num_running)
        if not (num_running or num_tokens or self._news):
            self._is_stepping = False
            self._publish()
            return
        self._is_stepping = True
        num_context += int(self._num_context)
        step_us = 0.0
        if num_running or num_tokens:
            step_us = self._step_us(num_tokens, num_running, num_context)
            self.learner.observe_step(num_tokens, num_running, num_context, step_us)
        news, self._news = self._news, []
        self._clock.after(step_us / 1e6, lambda: self._end_step(num_running, chunks, news))

    def _plan(self, budget: int) -> tuple[int, int, list[tuple[_Prompt, int]]]:
        chunks: list[tuple[_Prompt, int]] = []
        num_tokens = num_context = 0
        for prompt in self._prompts:
            if num_tokens >= budget:
                break
            size = min(budget - num_tokens, prompt.num_left)
            if prompt.began_at < 0:
                prompt.began_at = self._clock.now
            chunks.append((prompt, size))
            num_tokens += size
            num_context += prompt.num_computed + size
        return num_tokens, num_context, chunks

    def _end_step(
        self, num_running: int, chunks: list[tuple[_Prompt, int]], news: list[Callable[[], None]]
    ) -> None:
        if num_running:
            self._turns += num_running / len(self._ends)
            self._num_context += num_running
        while self._ends and self._ends[0][0] <= self._turns + 1e-9:
            flight = heapq.heappop(self._ends)[2]
            request = flight.request
            self._num_context -= request.num_tokens + request.num_output_tokens - 1
            flight.ended_at = self._clock.now
            flight.on_end()
        for prompt, size in chunks:
            prompt.num_left -= size
            prompt.num_computed += size
            if not prompt.num_left:
                self._prompts.popleft()
                self.cache.add(prompt.flight.request.blocks)
                prompt.done(self._clock.now - prompt.began_at)
        for tell in news:
            tell()
        self._publish()
        self._step()

    def _publish(self) -> None:
        """Its word, at most every 0.2 s; the newest counts when it is read."""
        if self._clock.now - self._published_at < 0.2 and self._is_stepping:
            return
        self._published_at = self._clock.now
        self.published = Published(
            len(self._ends),
            self._num_receiving,
            self.num_queued_tokens,
            max(0, int(self._num_context)),
            self.learner.learned(),
        )


@dataclass(frozen=True, slots=True)
class Published:
    """What a worker says of itself."""

    num_running: int = 0
    num_receiving: int = 0
    num_queued_tokens: int = 0
    num_context_tokens: int = 0
    learned: Learned = NOTHING_LEARNED


@dataclass(slots=True)
class Fleet:
    """All workers of a simulation, and the ways between them."""

    spec: FleetSpec
    clock: Clock
    times: StepTimes
    block_tokens: int
    slowness: Callable[[], float] = lambda: 1.0
    """By how much the next step is slower than the table says."""
    workers: dict[str, SimulatedWorker] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cached = lru_cache(maxsize=1 << 16)(self.times.step_us)

        def step_us(num_tokens: int, num_sequences: int, num_context: int) -> float:
            return cached(num_tokens, num_sequences, num_context & ~255) * self.slowness()

        roles = [
            (Role.PREFILL, "p", self.spec.num_prefill),
            (Role.DECODE, "d", self.spec.num_decode),
        ]
        for role, letter, number in roles:
            for name in (f"{letter}{index}" for index in range(number)):
                self.workers[name] = SimulatedWorker(
                    name, role, self.clock, step_us, self.spec, self.block_tokens
                )

    def submit(self, flight: Flight, decode_id: str, prefill_id: str) -> None:
        """Sends a request to its workers."""
        decode = self.workers[decode_id]
        if not prefill_id:

            def computed(_: float) -> None:
                decode._first_token(flight)

            self.clock.after(TRANSIT_S, lambda: decode.compute(flight, computed))
            return
        flight.is_remote = True
        prefill = self.workers[prefill_id]
        num_missing = flight.request.num_tokens - decode.num_cached_tokens(flight.request)

        def handed_over(compute_s: float) -> None:
            num_bytes = num_missing * self.spec.token_bytes
            moving_s = num_bytes / self.spec.road_bytes_per_s
            last = min(1.0, self.spec.max_batch_tokens / max(1, num_missing))
            exposed_s = max(moving_s - compute_s, moving_s * last)
            setup_s = self.spec.setup_s
            decode.learner.observe_handoff(prefill_id, setup_s * 1e6, num_bytes, moving_s * 1e6)
            self.clock.after(setup_s + exposed_s, lambda: decode.join(flight))

        def reserved() -> None:
            self.clock.after(TRANSIT_S, lambda: prefill.compute(flight, handed_over))

        self.clock.after(TRANSIT_S, lambda: decode.reserve(reserved))
