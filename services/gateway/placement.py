"""Brings samples to workers: chains block keys, has the policy choose, books the load, submits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton.blocks import BlockKey, KeyChain, KvLayout, root_key
from baton.errors import NoWorker, WorkerLost
from baton.policy.decision import Decision
from baton.policy.routing import RouteRequest, RoutingConfig, choose
from baton.registry.bookings import BookingBoard
from baton.registry.records import WorkerRecord
from baton.registry.views import view_workers
from baton.rpc.telemetry import Span
from baton.tokens import TokenIds
from services.gateway.attempts import Attempt
from services.gateway.fleet import DecodeWorker, Fleet
from services.gateway.frames import Submission
from services.gateway.requests import Request
from services.gateway.samples import Sample

AVOID_SECONDS = 5.0
"""A prefill worker that did not deliver gets no work for about as long as a restart takes."""
LONG_PROMPT_TOKENS = 24_576
"""Hashing more than this takes over a millisecond, too long for the event loop."""


@dataclass(frozen=True, slots=True)
class _Cargo:
    """What is to be placed."""

    request: Request
    samples: Sequence[Sample]
    token_ids: TokenIds
    avoid: str
    """A decode worker to pass over as long as there is another."""


class Placer:
    """Places samples on decode workers; waits a while when there is none."""

    def __init__(
        self, fleet: Fleet, board: BookingBoard, config: RoutingConfig, worker_wait_s: float
    ) -> None:
        self._fleet = fleet
        self._board = board
        self._config = config
        self._worker_wait_s = worker_wait_s
        self._avoided: dict[str, float] = {}

    async def place(self, request: Request, samples: Sequence[Sample], avoid: str = "") -> None:
        """Submits the samples together; several must have no tokens yet. Raises `NoWorker`.

        Returns without submitting if the request ends meanwhile.
        """
        started = time.monotonic()
        token_ids = request.command.token_ids.followed_by(samples[0].token_ids)
        cargo = _Cargo(request, samples, token_ids, avoid)
        with request.trace.route() as span:
            await self._place(cargo, started + self._worker_wait_s, span)
        request.route_us = request.route_us or round((time.monotonic() - started) * 1e6)

    def avoid_prefill(self, worker_id: str) -> None:
        """Gives a prefill worker no work for a while."""
        self._avoided[worker_id] = time.monotonic() + AVOID_SECONDS

    async def _place(self, cargo: _Cargo, until: float, span: Span) -> None:
        request, model = cargo.request, cargo.request.command.model
        layout: KvLayout | None = None
        keys: Sequence[BlockKey] = ()
        reason = ""
        while not request.is_over:
            live = {worker.record.worker_id: worker for worker in self._fleet.decode_workers(model)}
            newest = next((w.record.layout for w in live.values() if w.record.layout), None)
            if newest is not None and newest != layout:
                layout = newest
                keys = await self._chain(layout, cargo)
                continue  # others may have come or gone meanwhile
            decision = self._decide(cargo, keys, live)
            worker = live.get(decision.decode.worker_id or "")
            if worker is not None:
                for name, value in decision.explain().items():
                    span.set(name, value)
                try:
                    self._submit(cargo, worker, decision)
                    return
                except WorkerLost as error:
                    reason = error.message
                    continue
            reason = "; ".join(map(str, decision.decode.rejected)) or reason
            await self._wait(request, until, reason)

    async def _chain(self, layout: KvLayout, cargo: _Cargo) -> Sequence[BlockKey]:
        root = root_key(layout.namespace, cargo.request.command.cache_salt)
        keys = KeyChain(root, cargo.token_ids, layout.block_size)
        # What nobody caches is not hashed at all.
        if len(cargo.token_ids) > LONG_PROMPT_TOKENS and self._fleet.directory.index.match(
            keys[:1]
        ):
            await asyncio.to_thread(keys.__getitem__, -1)
        return keys

    def _decide(
        self, cargo: _Cargo, keys: Sequence[BlockKey], live: dict[str, DecodeWorker]
    ) -> Decision:
        model = cargo.request.command.model
        views = view_workers(
            # It reads what every directory has.
            self._fleet.directory,
            model,
            keys,
            self._board,
            self._unreachable(),
        )
        draw = random.random()
        wanted = RouteRequest(len(cargo.token_ids), len(cargo.samples), frozenset({cargo.avoid}))
        decision = choose(wanted, views, self._config, draw)
        if decision.decode.worker_id is None and cargo.avoid in live:
            anyone = RouteRequest(len(cargo.token_ids), len(cargo.samples))
            decision = choose(anyone, views, self._config, draw)
        return decision

    def _unreachable(self) -> set[str]:
        now = time.monotonic()
        self._avoided = {name: end for name, end in self._avoided.items() if end > now}
        return self._fleet.unreachable() | self._avoided.keys()

    def _submit(self, cargo: _Cargo, worker: DecodeWorker, decision: Decision) -> None:
        request = cargo.request
        prefill = self._prefill(decision)
        first = cargo.samples[0].index
        submission = Submission(
            command=request.command,
            token_ids=cargo.token_ids,
            sample_index=first,
            sample_count=len(cargo.samples),
            deadline=request.deadline,
            traceparent=request.trace.traceparent,
            prefill_worker_id=prefill.worker_id if prefill is not None else "",
            prefill_address=prefill.address if prefill is not None else "",
        )
        indices = range(first, first + len(cargo.samples))
        unbook = self._book(cargo, decision, prefill)
        request.begin(Attempt(request, worker.link, indices, unbook), submission)
        if request.ticket is not None:
            request.ticket.placed(decision.num_uncached_tokens)

    def _prefill(self, decision: Decision) -> WorkerRecord | None:
        return self._fleet.directory.workers.get(decision.prefill.worker_id or "")

    def _book(
        self, cargo: _Cargo, decision: Decision, prefill: WorkerRecord | None
    ) -> Callable[[], None]:
        """Promises the load; returns what takes the promise back."""
        num_tokens = decision.num_uncached_tokens
        decode = decision.decode.worker_id or ""
        if prefill is None:
            bookings = [self._board.book(decode, num_tokens, len(cargo.samples))]
        else:
            bookings = [
                self._board.book(decode, 0, len(cargo.samples)),
                self._board.book(prefill.worker_id, num_tokens),
            ]

        def unbook() -> None:
            for booking in bookings:
                self._board.release(booking)

        return unbook

    async def _wait(self, request: Request, until: float, reason: str) -> None:
        left_s = min(until, request.deadline) - time.monotonic()
        if left_s > 0:
            await self._fleet.changed(left_s)
        elif time.monotonic() >= request.deadline:
            request.expire()
        else:
            raise NoWorker(
                f"no decode worker for model {request.command.model!r} within "
                f"{self._worker_wait_s:g} s" + (f": {reason}" if reason else ""),
                retry_after_s=1.0,
            )
