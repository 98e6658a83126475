"""Brings a sequence's KV from elsewhere: from kvstore, from a prefill worker, or not at all.

Whatever fails here ends in the engine computing the rest itself. The one thing that must never
happen is that bytes land in blocks that serve another sequence by then: a failed hand-off gives its
blocks back only when they are quiet, and starts over with others when that takes too long.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from baton import convert
from baton.engine.engine import Engine
from baton.engine.types import NewToken, Reserved, SequenceSpec
from baton.errors import BatonError, InvalidRequest, TransferFailed
from baton.policy.learned import should_fetch_first
from baton.request import PrefillMode, SequenceTimings
from baton.rpc import logs, telemetry
from baton.v1 import prefill_pb2 as pb
from baton.worker.fetch import BlockFetcher
from baton.worker.host import EngineHost
from baton.worker.learning import Learning
from services.decode import metrics
from services.decode.prefill_link import PrefillLink, PrefillPeer, RemotePlan, RemoteSession
from services.decode.prefill_links import PrefillLinks

log = logs.get_logger(__name__)

QUIET_LIMIT_S = 1.0
"""A copy under way ends in milliseconds. Longer than this and other blocks are the quicker way."""


@dataclass(frozen=True, slots=True)
class ArrivalPlan:
    """What is to arrive, and from whom."""

    request_id: str
    traceparent: str
    spec: SequenceSpec
    peer: PrefillPeer | None
    deadline: float
    """In seconds of the monotonic clock."""


@dataclass(frozen=True, slots=True)
class _HandOff:
    """Over which link, into which blocks, behind how many tokens."""

    link: PrefillLink
    reserved: Reserved
    num_computed: int
    has_fetched: bool
    """Whether kvstore has given what it can."""


class StartOver(Exception):
    """The reserved blocks can't be trusted: run the sequence again with others."""


class Arrivals:
    """Brings blocks for reserved sequences. One per process."""

    def __init__(
        self,
        host: EngineHost,
        fetcher: BlockFetcher,
        links: PrefillLinks,
        learning: Learning,
        *,
        stall_s: float,
    ) -> None:
        self._host = host
        self._fetcher = fetcher
        self._links = links
        self._learning = learning
        self._stall_s = stall_s

    def wants(self, peer: PrefillPeer | None) -> bool:
        """Whether a sequence should be reserved before it runs."""
        return peer is not None or self._fetcher.is_on

    async def bring(self, plan: ArrivalPlan, reserved: Reserved, timings: SequenceTimings) -> None:
        """Resumes the reserved sequence with all that could be brought. Raises `StartOver`.

        Cancelled, it sees to it that the blocks are released when their bytes are quiet.
        """
        timings.cached_token_count = reserved.num_cached_tokens
        try:
            hand_off = await self._prepare(plan, reserved, timings)
        except asyncio.CancelledError:
            self._host.post(Engine.release, plan.spec.sequence_id)
            raise
        if hand_off is not None:
            await self._hand_off(plan, hand_off, timings)

    async def _prepare(
        self, plan: ArrivalPlan, reserved: Reserved, timings: SequenceTimings
    ) -> _HandOff | None:
        """The hand-off that is to come, behind what was fetched; none: the sequence runs here."""
        num_computed, has_fetched = reserved.num_cached_tokens, False
        if plan.peer is None or self._fetches_first(plan, plan.peer, reserved):
            num_computed, has_fetched = await self._fetch(plan, reserved, timings), True
        # The last block's worth is computed faster than it is asked for.
        num_missing = len(plan.spec.token_ids) - num_computed
        if plan.peer is not None and num_missing > self._host.engine.layout.block_size:
            timings.prefill_worker_id = plan.peer.worker_id
            try:
                link = await self._links.get(plan.peer)
                return _HandOff(link, reserved, num_computed, has_fetched)
            except BatonError as error:
                self._note_fallback(plan, timings, error)
                if not has_fetched:
                    num_computed = await self._fetch(plan, reserved, timings)
        self._resume(plan, num_computed)
        return None

    def _fetches_first(self, plan: ArrivalPlan, peer: PrefillPeer, reserved: Reserved) -> bool:
        """Whether fetching comes before the hand-off, not with it: as routing predicts it."""
        layout = self._host.engine.layout
        num_missing = len(plan.spec.token_ids) - reserved.num_cached_tokens
        num_bytes = -(-num_missing // layout.block_size) * layout.block_bytes
        road = self._learning.road(peer.worker_id)
        return should_fetch_first(self._fetcher.road, road, num_bytes)

    async def _fetch(self, plan: ArrivalPlan, reserved: Reserved, timings: SequenceTimings) -> int:
        """Fetches what kvstore has behind the cached tokens; returns how many are there then."""
        num_fetched = await self._fetcher.fetch(reserved, len(plan.spec.token_ids))
        timings.fetched_token_count += num_fetched
        return reserved.num_cached_tokens + num_fetched

    async def _hand_off(
        self, plan: ArrivalPlan, hand_off: _HandOff, timings: SequenceTimings
    ) -> None:
        link = hand_off.link
        timings.transport = link.transport
        span = telemetry.start_span("decode.handoff", plan.traceparent)
        session = link.open(self._remote_plan(plan, hand_off, span.traceparent))
        try:
            end = await session.result()
            await self._finish(plan, session, end, timings)
        except asyncio.CancelledError:
            self._links.release_when_quiet(link, session, plan.spec.sequence_id)
            raise
        except BatonError as error:
            span.fail(error.message)
            self._note_fallback(plan, timings, error)
            await self._recover(plan, hand_off, session, timings)
        else:
            await link.quiet(session, 0.0)
        finally:
            span.set("handoff.blocks", session.num_landed)
            span.set("handoff.transport", link.transport)
            span.end()

    async def _recover(
        self,
        plan: ArrivalPlan,
        hand_off: _HandOff,
        session: RemoteSession,
        timings: SequenceTimings,
    ) -> None:
        """Goes on with what landed, once nobody writes there any more, and what kvstore has."""
        link = hand_off.link
        try:
            is_quiet = await link.quiet(session, QUIET_LIMIT_S)
        except asyncio.CancelledError:
            self._links.release_when_quiet(link, session, plan.spec.sequence_id)
            raise
        if is_quiet:
            block_size = self._host.engine.layout.block_size
            num_computed = _landed_tokens(session, hand_off.num_computed, block_size)
            if not hand_off.has_fetched:
                landed = replace(hand_off.reserved, num_cached_tokens=num_computed)
                try:
                    num_computed = await self._fetch(plan, landed, timings)
                except asyncio.CancelledError:
                    self._host.post(Engine.release, plan.spec.sequence_id)
                    raise
            self._resume(plan, num_computed)
            return
        metrics.quarantines.inc()
        log.error("blocks quarantined", peer=link.peer.worker_id)
        self._links.release_when_quiet(link, session, plan.spec.sequence_id)
        raise StartOver

    def _remote_plan(self, plan: ArrivalPlan, hand_off: _HandOff, traceparent: str) -> RemotePlan:
        first = hand_off.num_computed // self._host.engine.layout.block_size
        return RemotePlan(
            request_id=plan.request_id,
            traceparent=traceparent,
            spec=plan.spec,
            first_block=first,
            targets=hand_off.reserved.block_ids[first:],
            timeout_s=max(0.0, plan.deadline - time.monotonic()),
            stall_s=self._stall_s,
        )

    async def _finish(
        self,
        plan: ArrivalPlan,
        session: RemoteSession,
        end: pb.SessionEnd,
        timings: SequenceTimings,
    ) -> None:
        """All blocks are in place and the first token is known: the sequence joins the batch.

        Raises `TransferFailed` for a token that the engine can't accept.
        """
        sequence_id = plan.spec.sequence_id
        logprobs = convert.logprobs_from_pb(end.logprobs) if end.HasField("logprobs") else None
        token = NewToken(sequence_id, end.token_id, logprobs)
        # Before the engine hears of it: the token may come out while we wait for the answer.
        timings.prefill_mode = PrefillMode.REMOTE
        timings.prefill_us = int((time.monotonic() - session.opened_at) * 1e6)
        timings.handoff_us = max(0, timings.prefill_us - end.queue_us - end.compute_us)
        timings.prefill_cached_token_count = end.cached_token_count
        timings.handoff_bytes = session.num_landed * self._host.engine.layout.block_bytes
        try:
            await self._host.call(Engine.resume, sequence_id, len(plan.spec.token_ids), token)
        except InvalidRequest as error:
            # Who sends an impossible token isn't trusted with blocks either.
            session.num_landed = 0
            raise TransferFailed(f"the first token is refused: {error.message}") from error
        exposed_us = end.push_us - end.hidden_push_us
        self._learning.observe_handoff(
            timings.prefill_worker_id,
            timings.handoff_us - exposed_us,
            timings.handoff_bytes,
            end.push_us,
        )
        metrics.handoffs.labels(timings.transport, "ok").inc()
        metrics.handoff_bytes.labels(timings.transport).inc(timings.handoff_bytes)
        metrics.pushed_seconds.labels("all").inc(end.push_us / 1e6)
        metrics.pushed_seconds.labels("hidden").inc(end.hidden_push_us / 1e6)

    def _note_fallback(
        self, plan: ArrivalPlan, timings: SequenceTimings, error: BatonError
    ) -> None:
        timings.prefill_mode = PrefillMode.FALLBACK
        metrics.handoffs.labels(timings.transport or "none", "failed").inc()
        log.warning(
            "hand-off failed, computing here",
            peer=timings.prefill_worker_id,
            reason=error.message,
        )

    def _resume(self, plan: ArrivalPlan, num_computed: int) -> None:
        self._host.post(Engine.resume, plan.spec.sequence_id, num_computed)


def _landed_tokens(session: RemoteSession, num_computed: int, block_size: int) -> int:
    """Tokens whose blocks are whole: those before the hand-off and the full ones that landed.

    The last known token stays to be computed: its logits are wanted.
    """
    num_known = len(session.plan.spec.token_ids)
    landed = num_computed + session.num_landed * block_size
    return min(landed, (num_known - 1) // block_size * block_size)
