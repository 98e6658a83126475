"""The gateway's heart: admits requests, has them placed, moves them, and ends each exactly once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from baton.errors import BatonError, EngineFailed, NoWorker, Overloaded, WorkerLost
from baton.request import Guide
from baton.rpc import logs
from baton.text import ModelText
from baton.tokens import TokenIds
from services.gateway import metrics, report
from services.gateway.admission import Admission
from services.gateway.claims import Claims
from services.gateway.fleet import Fleet
from services.gateway.later import later
from services.gateway.mailbox import Mailbox, Tray, Turnstile
from services.gateway.models import Models
from services.gateway.placement import Placer
from services.gateway.requests import Request
from services.gateway.samples import Sample
from services.gateway.types import Chunk, Final, GenerateCommand, ModelInfo, Visitor

log = logs.get_logger(__name__)

RETRY_AFTER_SECONDS = 1.0
MOVE_PAUSE_SECONDS = 0.1
"""Before a second move of the same sample; doubles with each further one."""
TOKENIZER_THREADS = 2
RECORD_AFTER_SECONDS = 0.05
"""What is told and learnt of a request comes so long after its end: a client that asks again at
once need not wait for it."""
MANY_ENDED = 16
"""For so many whose record is due, another one a turn."""
MAX_LONG_TEXTS = 64
"""Running in these threads or waiting for one; each at most as long as a door lets in."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gateway allows."""

    max_requests: int = 512
    max_migrations: int = 3
    worker_wait_s: float = 10.0


class Core:
    """The `Gateway` of `types.py`. All state lives on the event loop."""

    def __init__(
        self,
        fleet: Fleet,
        models: Models,
        placer: Placer,
        limits: Limits,
        admission: Admission,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._turnstile = Turnstile()
        self._fleet = fleet
        self._models = models
        self._placer = placer
        self._limits = limits
        self._admission = admission
        self._is_draining = is_draining
        self._requests: set[Request] = set()
        self._claims = Claims()
        self._served: dict[str, tuple[int, ModelInfo, ModelText]] = {}
        """By the name that clients give: the directory's version that this is of, and what it is.
        Names that mean no model don't get here."""
        self._num_admitted = 0
        self._num_encoding = 0
        self._ended: deque[Request] = deque()
        """Whose record is due."""
        self._record_after_s = RECORD_AFTER_SECONDS
        self._moves: set[asyncio.Task[None]] = set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        metrics.in_flight.set_function(lambda: self._num_admitted)
        self._threads = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")

    @property
    def num_requests(self) -> int:
        """Requests in flight."""
        return self._num_admitted

    @property
    def staleness_s(self) -> float:
        """Age of what is known about workers, in seconds."""
        return self._fleet.directory.staleness_s

    def models(self) -> list[ModelInfo]:
        """Models that live decode workers serve."""
        infos = [self._models.info(name, self._fleet.directory) for name in self._models.names]
        return [info for info in infos if info.num_decode_workers]

    async def text(self, model: str) -> tuple[ModelInfo, ModelText]:
        """A model by name and its tokeniser. Waits a little while no worker has come yet."""
        directory = self._fleet.directory
        served = self._served.get(model)
        if served is None or served[0] != directory.version:
            version = directory.version
            name = self._models.pick(model, self._fleet.records) or await self._first_model(model)
            text = await self._models.text(name)
            served = self._served[model] = version, self._models.info(name, directory), text
        return served[1], served[2]

    async def _first_model(self, model: str) -> str:
        until = time.monotonic() + self._limits.worker_wait_s
        while (name := self._models.pick(model, self._fleet.records)) is None:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise NoWorker(
                    f"no worker has come within {self._limits.worker_wait_s:g} s",
                    retry_after_s=RETRY_AFTER_SECONDS,
                )
            await self._fleet.changed(left_s)
        return name

    def welcome(self, model: str, visitor: Visitor) -> Visitor:
        """See `Gateway`."""
        visitor = self._admission.named(visitor)
        try:
            if not self._claims.is_held(visitor.tenant, visitor.retry_key):
                if not self._has_room and not self._admission.has_lesser(model, visitor):
                    raise self._overloaded()
                self._admission.check_early(model, visitor)
        except BatonError as error:
            metrics.requests.labels(error.status.reason).inc()
            raise
        return visitor

    async def encode(
        self, text: ModelText, prompt: str, add_special_tokens: bool = True
    ) -> TokenIds:
        """Tokenises, long texts in a thread. Raises `Overloaded` when too many of them wait."""
        if text.encoder.is_quick(prompt):
            return text.encode_packed(prompt, add_special_tokens)
        if self._num_encoding >= MAX_LONG_TEXTS:
            metrics.shed.labels("full").inc()
            raise Overloaded(
                f"{self._num_encoding} long texts wait to be tokenised, the limit; come back in "
                f"{RETRY_AFTER_SECONDS:g} s",
                retry_after_s=RETRY_AFTER_SECONDS,
            )
        loop = asyncio.get_running_loop()
        self._num_encoding += 1
        try:
            return await loop.run_in_executor(
                self._threads, text.encode_packed, prompt, add_special_tokens
            )
        finally:
            self._num_encoding -= 1

    async def guide_fault(self, model: str, guide: Guide) -> str:
        """Why a model cannot follow a guide; empty: it can."""
        return await (await self._models.guide_checks(model)).fault(guide)

    async def generate(self, command: GenerateCommand) -> AsyncGenerator[Chunk | Final, None]:
        """Chunks, then one `Final`; or raises a `BatonError`. Closing it cancels the request."""
        mailbox = Mailbox(self._turnstile)
        request = await self._open(command, mailbox)
        try:
            while (chunk := await mailbox.take()) is not None:
                yield chunk
            final = request.final()
            request.is_told = True
            yield final
        finally:
            self._discharge(command, request)

    async def attend(self, command: GenerateCommand, tray: Tray) -> Final:
        """As `generate`, for a caller that takes the chunks out of the tray itself."""
        request = await self._open(command, tray)
        try:
            await tray.closed()
            request.is_told = True
            return request.final()
        finally:
            self._discharge(command, request)

    async def _open(self, command: GenerateCommand, mailbox: Mailbox) -> Request:
        """Admits a request and sends it to workers. `_discharge` is to follow, whatever happens.

        Where this raises, it has followed.
        """
        self._admit(command)
        request: Request | None = None
        try:
            info, text = await self.text(command.model)
            request = Request(command, text, info.context_len, self, mailbox)
            self._requests.add(request)
            self._claims.hold(request)
            await self._admission.enter(request)
            await self._placer.place(request, request.samples)
            return request
        except BaseException as error:
            if isinstance(error, BatonError):
                if request is None:
                    metrics.requests.labels(error.status.reason).inc()
                else:
                    request.fail(error)
            self._discharge(command, request)
            raise

    async def drained(self) -> None:
        """Returns when no request is in flight."""
        await self._is_empty.wait()

    async def close(self) -> None:
        """Ends every request with an error; the process is on its way out."""
        self._record_after_s = 0.0
        for request in list(self._requests):
            request.fail(NoWorker("this gateway is shutting down", retry_after_s=0.0))
        for move in list(self._moves):
            move.cancel()
        while self._ended:
            self._record()
        self._threads.shutdown(wait=False)
        self._models.close()

    def on_trouble(self, request: Request, sample: Sample, error: BatonError) -> None:
        """A worker does not finish a sample: another one goes on behind the tokens that came."""
        last = sample.end_alone(request.context_len)
        if last is not None:
            request.tell(sample, last)
            request.close(sample)
            return
        if not self._may_move(request, sample, error):
            request.fail(error)
            return
        request.has_failed_engine |= isinstance(error, EngineFailed)
        if isinstance(error, EngineFailed | WorkerLost):
            self._placer.note_failure(sample.worker_id)
        sample.num_migrations += 1
        report.moved(request, sample, error)
        move = asyncio.create_task(self._move(request, sample, error))
        self._moves.add(move)
        move.add_done_callback(self._moves.discard)

    def on_fallback(self, prefill_worker_id: str) -> None:
        """A prefill worker did not deliver: it is avoided for a while."""
        metrics.fallbacks.labels(prefill_worker_id).inc()
        self._placer.note_failure(prefill_worker_id)

    def _admit(self, command: GenerateCommand) -> None:
        """Counts the request in. One that it takes over from makes room for it."""
        try:
            if self._is_draining():
                raise NoWorker(
                    "this gateway is draining; ask another one", retry_after_s=RETRY_AFTER_SECONDS
                )
            if not self._has_room:
                is_new = not self._claims.is_held(command.tenant, command.retry_key)
                if is_new and not self._admission.make_room(command):
                    raise self._overloaded()
            self._claims.take(command)
        except BatonError as error:
            metrics.requests.labels(error.status.reason).inc()
            raise
        self._num_admitted += 1
        self._is_empty.clear()

    @property
    def _has_room(self) -> bool:
        return self._num_admitted < self._limits.max_requests

    def _overloaded(self) -> Overloaded:
        metrics.shed.labels("full").inc()
        return Overloaded(
            f"{self._num_admitted} requests are in flight, and {self._limits.max_requests} is the "
            f"limit; come back in {RETRY_AFTER_SECONDS:g} s",
            retry_after_s=RETRY_AFTER_SECONDS,
        )

    def _discharge(self, command: GenerateCommand, request: Request | None) -> None:
        self._claims.release(command)
        self._num_admitted -= 1
        if request is None:
            self._count_out()
            return
        request.abandon()
        self._requests.discard(request)
        request.left_at = time.monotonic()
        self._ended.append(request)
        if len(self._ended) == 1:
            asyncio.get_running_loop().call_later(self._record_after_s, self._record)
        if not self._num_admitted:
            later(self._look_ahead, command.model)

    def _look_ahead(self, model: str) -> None:
        if not self._num_admitted:
            self._placer.look_ahead(model)

    def _record(self) -> None:
        """Of one request a turn of the loop, which serves others in between; of more when many
        have ended, lest they become more and more."""
        for _ in range(min(len(self._ended), 1 + len(self._ended) // MANY_ENDED)):
            request = self._ended.popleft()
            try:
                self._placer.decisions.ended(request, report.ended(request))
            except Exception:
                log.exception("a request's end could not be recorded")
            self._count_out()
        if self._ended:
            asyncio.get_running_loop().call_soon(self._record)

    def _count_out(self) -> None:
        if not self._num_admitted and not self._ended:
            self._is_empty.set()

    def _may_move(self, request: Request, sample: Sample, error: BatonError) -> bool:
        if sample.num_migrations >= self._limits.max_migrations:
            return False
        if isinstance(error, EngineFailed):
            # It may be the request that breaks engines: it gets one more, not all of them.
            return not request.has_failed_engine
        return error.status.may_retry

    async def _move(self, request: Request, sample: Sample, error: BatonError) -> None:
        if sample.num_migrations > 1:
            await asyncio.sleep(MOVE_PAUSE_SECONDS * 2 ** (sample.num_migrations - 2))
        try:
            await self._placer.place(request, [sample], avoid=sample.worker_id)
        except NoWorker:
            request.fail(error)
        except BatonError as failure:
            request.fail(failure)
        except Exception as defect:
            log.exception("a sample could not be moved", request_id=request.command.request_id)
            request.fail(EngineFailed(f"{type(defect).__name__} while moving a sample"))
