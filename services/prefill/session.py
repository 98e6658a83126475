"""One prompt to compute for a decode worker: a hand-off from its opening to quiet bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from baton import convert, errors
from baton.engine.engine import Engine
from baton.engine.types import Finished, NewToken, Progress, Reserved, SequenceSpec
from baton.request import FinishReason
from baton.rpc import logs, telemetry
from baton.transfer.push import Pusher, PushJob
from baton.v1 import prefill_pb2 as pb
from baton.worker.fetch import BlockFetcher
from baton.worker.host import EngineHost

log = logs.get_logger(__name__)

News = Reserved | Progress | NewToken | Finished


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What the decode worker asked for."""

    session_id: int
    request_id: str
    traceparent: str
    spec: SequenceSpec
    first_block: int
    """Index in the sequence of the first block to push."""
    targets: tuple[int, ...]
    lease_s: float
    verify: bool


@dataclass(slots=True)
class _Pushes:
    """What was pushed and when, in seconds of the monotonic clock."""

    num_blocks: int = 0
    spans: list[tuple[float, float]] | None = None

    def add(self, start: float, stop: float) -> None:
        self.spans = [*(self.spans or []), (start, stop)]

    def total_us(self) -> int:
        return int(1e6 * sum(stop - start for start, stop in self.spans or []))

    def hidden_us(self, computed_at: float) -> int:
        """The part that ran before `computed_at`."""
        hidden = (min(stop, computed_at) - start for start, stop in self.spans or [])
        return int(1e6 * sum(max(0.0, part) for part in hidden))


class PrefillSession:
    """Runs a plan. `run` sends updates through `send`; the last one carries the session's end."""

    def __init__(
        self,
        plan: SessionPlan,
        host: EngineHost,
        pusher: Pusher,
        fetcher: BlockFetcher,
        send: Callable[[pb.SessionUpdate], None],
    ) -> None:
        self._plan = plan
        self._host = host
        self._pusher = pusher
        self._fetcher = fetcher
        self._send = send
        self._news: asyncio.Queue[tuple[float, News]] = asyncio.Queue()
        self._pushes = _Pushes()
        self._num_fetched = 0
        self._has_ended = False

    def tell(self, news: News) -> None:
        """Takes the engine's news of this session's sequence."""
        self._news.put_nowait((time.monotonic(), news))

    async def run(self) -> None:
        """Computes and pushes; cancelled, it ends the session as such, with its bytes quiet."""
        plan = self._plan
        span = telemetry.start_span("prefill.session", plan.traceparent)
        logs.bind(request_id=plan.request_id, trace_id=span.trace_id)
        try:
            async with asyncio.timeout(plan.lease_s):
                end = await self._compute_and_push()
        except TimeoutError:
            end = _failed(errors.DeadlineExceeded(f"the lease of {plan.lease_s:.1f} s is over"))
        except asyncio.CancelledError:
            end = _failed(errors.Cancelled("the decode worker closed the session"))
        except errors.BatonError as error:
            log.warning("session failed", reason=error.message)
            end = _failed(error)
        # No push is under way here: `push` comes back only with its bytes quiet.
        self._host.post(Engine.cancel, plan.spec.sequence_id)
        self._host.post(Engine.release, plan.spec.sequence_id)
        self._send_end(end)
        span.set("prefill.compute_us", end.compute_us)
        span.set("prefill.push_us", end.push_us)
        span.set("prefill.cached_tokens", end.cached_token_count)
        if end.HasField("error"):
            span.set("error", end.error.message)
        span.end()

    def end_unstarted(self) -> None:
        """Sends the end of a session that was cancelled before `run` took its first step."""
        if not self._has_ended:
            self._send_end(_failed(errors.Cancelled("the decode worker closed the session")))

    def _send_end(self, end: pb.SessionEnd) -> None:
        self._has_ended = True
        self._send(pb.SessionUpdate(session_id=self._plan.session_id, end=end))

    async def _compute_and_push(self) -> pb.SessionEnd:
        plan = self._plan
        await self._host.call(Engine.add, await self._host.guided(plan.spec))
        token: NewToken | None = None
        while True:
            told_at, news = await self._news.get()
            match news:
                case Reserved():
                    await self._fetch(news)
                case Progress():
                    await self._push(self._newest_progress(news))
                case NewToken():
                    token = news
                case Finished() if news.reason is FinishReason.LENGTH and token is not None:
                    return self._end(token, news, told_at)
                case Finished():
                    raise errors.EngineFailed(
                        news.error or f"the sequence ended: {news.reason.name}"
                    )

    async def _fetch(self, reserved: Reserved) -> None:
        self._num_fetched = await self._fetcher.fetch(reserved, len(self._plan.spec.token_ids))
        num_computed = reserved.num_cached_tokens + self._num_fetched
        self._host.post(Engine.resume, self._plan.spec.sequence_id, num_computed)
        # What is here already moves while the rest computes.
        await self._push(Progress(reserved.sequence_id, num_computed, reserved.block_ids))

    def _newest_progress(self, progress: Progress) -> Progress:
        """Skips to the newest of several progresses in a row: pushes fell behind the engine."""
        waiting: list[tuple[float, News]] = []
        while not self._news.empty():
            waiting.append(self._news.get_nowait())
        for item in waiting:
            if isinstance(item[1], Progress):
                progress = item[1]
            else:
                self._news.put_nowait(item)
        return progress

    async def _push(self, progress: Progress) -> None:
        """Pushes the blocks that became final."""
        plan, pushed = self._plan, self._pushes
        num_known = len(plan.spec.token_ids)
        block_size = self._host.engine.layout.block_size
        is_last = progress.num_computed >= num_known
        num_final = (
            len(plan.targets) + plan.first_block if is_last else progress.num_computed // block_size
        )
        start, stop = plan.first_block + pushed.num_blocks, num_final
        if stop <= start:
            return
        job = PushJob(
            plan.session_id,
            pushed.num_blocks,
            progress.block_ids[start:stop],
            plan.targets[pushed.num_blocks : stop - plan.first_block],
        )
        began = time.monotonic()
        sums = await self._pusher.push(job, verify=plan.verify)
        pushed.add(began, time.monotonic())
        pushed.num_blocks += stop - start
        self._send(
            pb.SessionUpdate(
                session_id=plan.session_id, pushed_block_count=pushed.num_blocks, checksums=sums
            )
        )

    def _end(self, token: NewToken, finished: Finished, computed_at: float) -> pb.SessionEnd:
        stats = finished.stats
        return pb.SessionEnd(
            token_id=token.token_id,
            logprobs=convert.logprobs_to_pb(token.logprobs) if token.logprobs else None,
            queue_us=stats.queue_us,
            compute_us=stats.prefill_us,
            push_us=self._pushes.total_us(),
            hidden_push_us=self._pushes.hidden_us(computed_at),
            cached_token_count=stats.num_cached_tokens + self._num_fetched,
        )


def _failed(error: errors.BatonError) -> pb.SessionEnd:
    return pb.SessionEnd(error=convert.error_to_pb(error))
