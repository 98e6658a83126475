"""Brings samples to workers: chains block keys, has the policy choose, books the load, submits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from baton.blocks import BlockKey, KeyChain, KvLayout, root_key
from baton.errors import NoWorker, WorkerLost
from baton.policy.decision import Decision
from baton.policy.failures import FailureMemory
from baton.policy.routing import choose
from baton.policy.rules import Chooser
from baton.policy.workers import RouteRequest, RoutingConfig
from baton.registry.bookings import Booking, BookingBoard
from baton.registry.records import WorkerRecord
from baton.registry.views import WorkerTables
from baton.rpc.telemetry import Span
from baton.tokens import TokenIds
from services.gateway import metrics
from services.gateway.attempts import Attempt
from services.gateway.decisions import DecisionLog
from services.gateway.fleet import DecodeWorker, Fleet
from services.gateway.frames import Submission
from services.gateway.requests import Request
from services.gateway.samples import Sample

LONG_PROMPT_TOKENS = 24_576
"""Hashing more than this takes over a millisecond, too long for the event loop."""


# Neither is frozen, that takes three times as long to make. Nobody changes one.
@dataclass(slots=True)
class _Cargo:
    """What is to be placed."""

    request: Request
    samples: Sequence[Sample]
    token_ids: TokenIds
    avoid: str
    """A decode worker to pass over as long as there is another."""


@dataclass(slots=True)
class _Stay:
    """What one submission has at its workers."""

    board: BookingBoard
    decode: Booking
    prefill: Booking | None

    def computed(self) -> None:
        """See `Stay`: the decode worker has only a sequence left, the prefill worker nothing."""
        self.board.computed(self.decode)
        if self.prefill is not None:
            self.board.release(self.prefill)

    def release(self) -> None:
        """See `Stay`."""
        self.board.release(self.decode)
        if self.prefill is not None:
            self.board.release(self.prefill)


class Placer:
    """Places samples on decode workers; waits a while when there is none."""

    def __init__(
        self,
        fleet: Fleet,
        board: BookingBoard,
        config: RoutingConfig,
        worker_wait_s: float,
        chooser: Chooser = choose,
    ) -> None:
        self._fleet = fleet
        self._board = board
        self._config = config
        self._worker_wait_s = worker_wait_s
        self._choose = chooser
        self._failures = FailureMemory()
        # It reads what every directory has.
        self.tables = WorkerTables(fleet.directory, board, config, self._failures)
        self.decisions = DecisionLog()

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

    def note_failure(self, worker_id: str) -> None:
        """A worker did not deliver: it costs more for a while."""
        self._failures.note(worker_id, time.monotonic())

    def look_ahead(self, model: str) -> None:
        """Takes in what has changed by now, in a quiet moment: the next request finds it done."""
        self._board.expire()
        self.tables.table(model, self._fleet.unreachable())

    async def _place(self, cargo: _Cargo, until: float, span: Span) -> None:
        request, model = cargo.request, cargo.request.command.model
        layout: KvLayout | None = None
        keys: Sequence[BlockKey] = ()
        reason = ""
        while not request.is_over:
            live = self._fleet.decode_workers(model)
            newest = _layout_of(live)
            if newest is not None and (layout is None or newest != layout):
                layout = newest
                keys = self._chain(layout, cargo)
                if len(cargo.token_ids) > LONG_PROMPT_TOKENS and self._is_begun(keys):
                    await asyncio.to_thread(keys.__getitem__, -1)
                    continue  # others may have come or gone meanwhile
            decision = self._decide(cargo, keys, live)
            worker = live.get(decision.decode_worker_id)
            if worker is not None:
                if span.is_recording:
                    for name, value in decision.explain().items():
                        span.set(name, value)
                try:
                    self._submit(cargo, worker, decision)
                    self._predict(worker.record, keys)
                    return
                except WorkerLost as error:
                    reason = error.message
                    continue
            reason = "; ".join(map(str, decision.rejected)) or reason
            await self._wait(request, until, reason)

    def _chain(self, layout: KvLayout, cargo: _Cargo) -> Sequence[BlockKey]:
        root = root_key(layout.namespace, cargo.request.command.cache_salt)
        return KeyChain(root, cargo.token_ids, layout.block_size)

    def _is_begun(self, keys: Sequence[BlockKey]) -> bool:
        """Whether anybody has the first block. What nobody has is hardly hashed at all."""
        return self._fleet.directory.index.walk(keys[:1]).has_begun

    def _decide(
        self, cargo: _Cargo, keys: Sequence[BlockKey], live: Mapping[str, DecodeWorker]
    ) -> Decision:
        began = time.perf_counter()
        self._fleet.predicted.expire(time.monotonic())
        command = cargo.request.command
        table = self.tables.table(command.model, self._fleet.unreachable())
        slo = command.slo
        known = self._fleet.directory.index.walk(keys)
        wanted = RouteRequest(
            len(cargo.token_ids),
            len(cargo.samples),
            frozenset((cargo.avoid,)) if cargo.avoid else frozenset(),
            known.matched,
            known.num_stored,
            target_ttft_ms=slo.target_ttft_ms,
            target_itl_ms=slo.target_itl_ms,
            expected_output_tokens=min(
                slo.expected_output_count or self.decisions.output_tokens,
                command.sampling.max_tokens,
            ),
        )
        decision = self._choose(wanted, table, self._config, random.random())
        if not decision.decode_worker_id and cargo.avoid in live:
            anyone = replace(wanted, excluded=frozenset())
            decision = self._choose(anyone, table, self._config, random.random())
        metrics.decision_seconds.observe(time.perf_counter() - began)
        return decision

    def _predict(self, record: WorkerRecord, keys: Sequence[BlockKey]) -> None:
        """Of a worker that announces no events, what it will cache."""
        if not record.announces_events:
            now = time.monotonic()
            self._fleet.predicted.routed(record.worker_id, keys, record.num_blocks, now)

    def _submit(self, cargo: _Cargo, worker: DecodeWorker, decision: Decision) -> None:
        request = cargo.request
        prefill = self._prefill(decision) if decision.prefill_worker_id else None
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
        stay = self._book(cargo, decision, prefill)
        request.begin(Attempt(request, worker.link, indices, stay), submission)
        # When it is on its way: the link's writer was woken first.
        asyncio.get_running_loop().call_soon(
            self.decisions.placed, request.command.request_id, decision, len(cargo.token_ids)
        )
        if request.ticket is not None:
            request.ticket.placed(decision.num_uncached_tokens)

    def _prefill(self, decision: Decision) -> WorkerRecord | None:
        return self._fleet.directory.workers.get(decision.prefill_worker_id)

    def _book(self, cargo: _Cargo, decision: Decision, prefill: WorkerRecord | None) -> _Stay:
        """Promises the load."""
        num_tokens = decision.num_uncached_tokens
        decode, count = decision.decode_worker_id, len(cargo.samples)
        if prefill is None:
            return _Stay(self._board, self._board.book(decode, num_tokens, count), None)
        return _Stay(
            self._board,
            self._board.book(decode, 0, count),
            self._board.book(prefill.worker_id, num_tokens),
        )

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


def _layout_of(live: Mapping[str, DecodeWorker]) -> KvLayout | None:
    """How the first worker that says so lays out its blocks."""
    for worker in live.values():
        if worker.record.layout is not None:
            return worker.record.layout
    return None
