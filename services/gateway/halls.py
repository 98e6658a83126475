"""One model's requests: what waits, what is with the workers, and what both have shown."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from math import inf

from baton.errors import Overloaded
from baton.policy.admission import (
    TARGET_SHARE,
    Demand,
    Forecast,
    Occupancy,
    Patience,
    Pool,
    retry_after_s,
)
from baton.policy.fairness import FairQueue
from baton.policy.shares import Line
from services.gateway import metrics
from services.gateway.tenants import Tenants
from services.gateway.types import GenerateCommand

TICK_S = 0.05
"""How often a hall in which somebody waits looks for new room and for those that are late."""
POOL_AGE_S = 0.2
"""How old the view of the workers may be: load records come no faster."""
MIN_PART = 0.01
"""Of a tenant's weight that counts here at least, however much more of it waits elsewhere."""

Clock = Callable[[], float]
"""Seconds, on the clock on which requests say when they arrived."""
LookAtPool = Callable[[str, int, float, Line], Pool]
"""A model's pool, given the sequences and prompt tokens that this gateway has in flight there, and
who waits for it."""


class Ticket:
    """One request's place: waiting, then inside, then gone. Its request calls it."""

    __slots__ = (
        "_ahead",
        "_future",
        "_hall",
        "_has_started",
        "_is_inside",
        "_sent_at",
        "arrived_at",
        "band",
        "demand",
        "num_prompt_tokens",
        "patience",
        "predicted_ttft_s",
        "predicted_wait_s",
        "queued_at",
        "tenant",
        "was_queued",
    )

    def __init__(
        self, hall: Hall, command: GenerateCommand, demand: Demand, patience: Patience
    ) -> None:
        self.tenant = command.tenant
        self.band = command.priority
        self.num_prompt_tokens = len(command.token_ids)
        self.demand = demand
        self.patience = patience
        self.arrived_at = command.arrived_at or hall.clock()
        self.queued_at = 0.0
        self.was_queued = False
        self.predicted_wait_s = 0.0
        self.predicted_ttft_s = 0.0
        self._hall = hall
        self._future: asyncio.Future[None] | None = None
        self._is_inside = False
        self._has_started = True
        self._sent_at = 0.0
        self._ahead = 0.0

    async def wait(self) -> None:
        """Returns when it is let in, or has left. Raises `Overloaded` when it is shed."""
        self._future = asyncio.get_running_loop().create_future()
        await self._future

    def let_in(self, num_ahead: float) -> None:
        """It may be sent, behind so many prompt tokens."""
        self._is_inside = True
        self._has_started = False
        self._sent_at = self._hall.clock()
        self._ahead = num_ahead
        self._wake(None)

    def refuse(self, error: Overloaded) -> None:
        """It is shed while it waits."""
        self._wake(error)

    def placed(self, num_uncached: int) -> None:
        """It was sent; so many of its prompt tokens must be computed. The first call counts."""
        if not self._has_started and self.demand.num_tokens != num_uncached:
            self._hall.correct(self, num_uncached)

    def started(self, at: float) -> None:
        """Its first token came then, on the halls' clock."""
        if not self._has_started:
            self._has_started = True
            self._hall.on_start(self, at - self._sent_at, self._ahead)

    def leave(self, num_outputs: int = 0) -> None:
        """Its request has ended, in whatever state. Idempotent."""
        if self._is_inside:
            self._is_inside = False
            has_started, self._has_started = self._has_started, True
            self._hall.on_leave(self, has_started, num_outputs)
        elif self._future is not None:
            self._hall.give_up(self)
            self._wake(None)

    def _wake(self, error: Overloaded | None) -> None:
        future, self._future = self._future, None
        if future is None or future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


class Hall:
    """One model's requests. All state lives on the event loop."""

    def __init__(
        self, model: str, look: LookAtPool, tenants: Tenants, clock: Clock = time.monotonic
    ) -> None:
        self.model = model
        self.clock = clock
        self.queue: FairQueue[Ticket] = FairQueue(tenants.weight)
        self.forecast = Forecast()
        self.inside = Occupancy()
        self._tenants = tenants
        self._look = look
        self._pool = Pool()
        self._seen_at = -inf
        self._tick: asyncio.TimerHandle | None = None
        self._is_pumping = False
        self._is_reweighed = False
        self._shown: set[tuple[str, str, str]] = set()

    def pool(self, now: float) -> Pool:
        """The workers, as of a moment ago."""
        if now - self._seen_at > POOL_AGE_S:
            inside = self.inside
            self._pool = self._look(
                self.model, inside.num_sequences, inside.num_tokens, self.line()
            )
            self._seen_at = now
            self.forecast.told(self._pool.tokens_per_s)
            self._reweigh(self._pool.tenants)
        return self._pool

    def line(self) -> Line:
        """Who waits, for other gateways."""
        return Line(*self.queue.top())

    def take(self, ticket: Ticket) -> bool:
        """Lets a request in at once if there is room and nobody waits."""
        now = self.clock()
        if self.queue or not self.inside.fits(ticket.demand, self.pool(now)):
            return False
        ticket.predicted_ttft_s = now - ticket.arrived_at + self._start_s(ticket.demand)
        self.forecast.judged(ticket.demand.num_tokens, False)
        self._let_in(ticket)
        return True

    def join(self, ticket: Ticket, timeout_s: float) -> None:
        """Puts a request in line. Raises `Overloaded` if it would come too late."""
        now = self.clock()
        if not self.queue:
            self.forecast.drain.formed(now)
        wait_s = self._wait_s(ticket.tenant, ticket.band)
        passed_s = now - ticket.arrived_at
        start_s = self._start_s(ticket.demand)
        # Once it is in line, its own deadline ends it, by its own name.
        limit_s = min(self._limit_s(ticket), timeout_s)
        reserve_s = self.forecast.reserve_s(ticket.demand.num_tokens, wait_s)
        is_late = passed_s + wait_s + start_s + reserve_s > limit_s
        self.forecast.judged(ticket.demand.num_tokens, is_late)
        if is_late:
            raise self._shed("late", passed_s + wait_s + start_s, limit_s)
        ticket.queued_at, ticket.was_queued = now, True
        ticket.predicted_wait_s = wait_s
        ticket.predicted_ttft_s = passed_s + wait_s + start_s
        self.queue.push(ticket, ticket.tenant, ticket.band, ticket.demand.cost)
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._on_tick)

    def check_early(self, tenant: str, band: int, patience: Patience) -> None:
        """Raises `Overloaded` if the line alone is too long, whatever the request's length."""
        wait_s = self._wait_s(tenant, band)
        # A long prompt may have the longer of the two.
        limit_s = TARGET_SHARE * max(patience.target_s, patience.default_s)
        if wait_s > limit_s:
            raise self._shed("early", wait_s, limit_s)

    def has_lesser(self, tenant: str, band: int) -> bool:
        """Whether `make_room` would."""
        return self.queue.victim(tenant, band) is not None

    def make_room(self, tenant: str, band: int) -> bool:
        """Sheds a request that waits for one with a better right to; false if none does."""
        victim = self.queue.victim(tenant, band)
        if victim is None:
            return False
        self.queue.remove(victim)
        wait_s = self._wait_s(victim.tenant, victim.band)
        victim.refuse(self._shed("displaced", wait_s, 0.0))
        return True

    def correct(self, ticket: Ticket, num_uncached: int) -> None:
        """A request needs more or fewer prompt tokens than thought."""
        before = ticket.demand
        ticket.demand = Demand(before.num_sequences, float(num_uncached), before.num_outputs)
        self.inside.num_tokens += num_uncached - before.num_tokens
        self.forecast.placed(ticket.num_prompt_tokens, num_uncached)
        if ticket.was_queued:
            self.queue.settle(ticket.tenant, ticket.band, num_uncached - before.num_tokens)
        if num_uncached < before.num_tokens and self.queue:
            self._pump()

    def on_start(self, ticket: Ticket, seconds: float, num_ahead: float) -> None:
        """A first token has come."""
        self._forget_start(ticket)
        self.forecast.started(ticket.demand.num_tokens, num_ahead, self._pool.num_workers, seconds)
        passed_s = self.clock() - ticket.arrived_at
        metrics.ttft_ratio.observe(passed_s / max(ticket.predicted_ttft_s, 1e-6))
        self._pump()

    def on_leave(self, ticket: Ticket, has_started: bool, num_outputs: int) -> None:
        """A request that was inside has ended."""
        self.inside.num_sequences -= ticket.demand.num_sequences
        if not has_started:
            self._forget_start(ticket)
        else:
            self.forecast.ended(num_outputs // ticket.demand.num_sequences)
        if ticket.was_queued:
            actual = Demand(0, 0.0, float(num_outputs)).cost
            expected = Demand(0, 0.0, ticket.demand.num_outputs).cost
            self.queue.settle(ticket.tenant, ticket.band, actual - expected)
        self._pump()

    def give_up(self, ticket: Ticket) -> None:
        """A request that waits has ended."""
        self.queue.remove(ticket)

    def show(self) -> None:
        """Tells the metrics who waits."""
        self._shown = metrics.show_waiting(self.model, self.queue.lengths(), self._shown)

    def _reweigh(self, parts: Mapping[str, float] | None) -> None:
        """Tenants count by their parts while other gateways have lines, else whole."""
        if parts is not None:
            self.queue.reweigh(
                lambda tenant: self._tenants.weight(tenant) * max(parts.get(tenant, 1.0), MIN_PART)
            )
        elif self._is_reweighed:
            self.queue.reweigh(self._tenants.weight)
        self._is_reweighed = parts is not None

    def _forget_start(self, ticket: Ticket) -> None:
        inside = self.inside
        inside.num_starting -= 1
        # Sums of fractions drift; an empty one is exact.
        left = inside.num_tokens - ticket.demand.num_tokens
        inside.num_tokens = left if inside.num_starting else 0.0

    def _start_s(self, demand: Demand) -> float:
        ahead = self.inside.num_tokens
        return self.forecast.start_s(demand.num_tokens, ahead, self._pool.num_workers)

    def _wait_s(self, tenant: str, band: int) -> float:
        return self.forecast.wait_s(tenant, band, self.queue.work_ahead(tenant, band))

    def _limit_s(self, ticket: Ticket) -> float:
        alone_s = self.forecast.start_s(ticket.demand.num_tokens, 0.0, 1)
        return ticket.patience.limit_s(alone_s)

    def _shed(self, reason: str, predicted_s: float, limit_s: float) -> Overloaded:
        metrics.shed.labels(reason).inc()
        after_s = retry_after_s(predicted_s - limit_s, random.random())
        if reason == "displaced":
            why = "its place in line went to a request of a tenant with less of them in line"
        else:
            why = (
                f"its first token is expected {predicted_s:.2f} s from its arrival, later than the "
                f"{limit_s:.2f} s it may take"
            )
        return Overloaded(
            f"model {self.model!r} is busy and {len(self.queue)} requests wait: {why}; "
            f"come back in {after_s:.1f} s",
            retry_after_s=after_s,
        )

    def _pump(self) -> None:
        """Lets in those whose turn it is, as long as there is room."""
        if not self.queue or self._is_pumping:
            return
        self._is_pumping = True
        now = self.clock()
        pool = self.pool(now)
        while (ticket := self.queue.first()) is not None and self.inside.fits(ticket.demand, pool):
            self.queue.pop()
            passed_s = now - ticket.arrived_at + self._start_s(ticket.demand)
            self._learn_wait(ticket, now)
            # An idle pool takes whatever comes: else one wrong forecast could keep it idle.
            if self.inside.num_sequences and passed_s > self._limit_s(ticket):
                self._turn_away(ticket, passed_s)
                continue
            self.forecast.drain.let_in(ticket.demand.cost)
            self._let_in(ticket)
        self.forecast.drain.measure(now)
        self._is_pumping = False

    def _let_in(self, ticket: Ticket) -> None:
        ahead = self.inside.num_tokens
        self.inside.num_sequences += ticket.demand.num_sequences
        self.inside.num_starting += 1
        self.inside.num_tokens += ticket.demand.num_tokens
        ticket.let_in(ahead)

    def _turn_away(self, ticket: Ticket, passed_s: float) -> None:
        self.forecast.refused()
        ticket.refuse(self._shed("overdue", passed_s, self._limit_s(ticket)))

    def _learn_wait(self, ticket: Ticket, now: float) -> None:
        waited_s = now - ticket.queued_at
        metrics.waited.observe(waited_s)
        self.forecast.waited(ticket.tenant, ticket.band, ticket.predicted_wait_s, waited_s)

    def _on_tick(self) -> None:
        """Room may have come from elsewhere, and some may have waited too long."""
        self._tick = None
        self._pump()
        now = self.clock()
        for ticket in list(self.queue):
            if now - ticket.arrived_at < ticket.patience.target_s / 2:
                continue  # most: a long line is looked through twenty times a second
            passed_s = (
                now
                - ticket.arrived_at
                + self.forecast.start_s(ticket.demand.num_tokens, 0.0, self._pool.num_workers)
            )
            if self.inside.num_sequences and passed_s > self._limit_s(ticket):
                self.queue.remove(ticket)
                self._learn_wait(ticket, now)
                self._turn_away(ticket, passed_s)
        self.show()
        if self.queue:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._on_tick)
