"""One client's stream: many requests, each answered in parts, under their ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from baton.errors import BatonError, EngineFailed, NoWorker
from baton.kserve.v2 import inference_pb2 as pb
from baton.rpc import logs
from baton.rpc.handlers import Context
from baton.rpc.status import FIELD, REASON
from services.gateway.kserve.answers import FINAL

MAX_REQUESTS = 256
"""Requests of one stream that are answered at a time. More wait unread, in the transport."""

Answer = Callable[[pb.ModelInferRequest], AsyncGenerator[pb.ModelInferResponse, None]]

log = logs.get_logger(__name__)


class InferStream:
    """Answers requests side by side.

    One response is written at a time, and each request holds at most one that waits for its turn:
    behind it new tokens merge in the request's mailbox, however slowly the client reads.
    """

    def __init__(self, answer: Answer, context: Context, draining: asyncio.Event) -> None:
        self._answer = answer
        self._context = context
        self._draining = draining
        self._turn = asyncio.Lock()
        self._room = asyncio.Semaphore(MAX_REQUESTS)
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        """Returns when the client has sent its last request and all are answered.

        Raises `NoWorker` when the process drains, behind the answers that had been begun.
        """
        reading = asyncio.create_task(self._read(requests))
        leaving = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
            is_cut = not reading.done()
            if is_cut:
                reading.cancel()
            else:
                reading.result()
            while self._running:
                await asyncio.wait(self._running)
            if is_cut:
                raise NoWorker("this gateway is draining; open a new stream", retry_after_s=1.0)
        finally:
            tasks = {reading, leaving, *self._running}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.ModelInferRequest]) -> None:
        async for request in requests:
            await self._room.acquire()
            task = asyncio.create_task(self._serve(request))
            self._running.add(task)
            task.add_done_callback(self._on_served)

    def _on_served(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._room.release()
        if not task.cancelled() and (defect := task.exception()) is not None:
            # Writing failed: the client is gone, and grpc cancels this call in a moment.
            log.debug("a response could not be written", error=repr(defect))

    async def _serve(self, request: pb.ModelInferRequest) -> None:
        try:
            async with aclosing(self._answer(request)) as responses:
                async for response in responses:
                    await self._write(pb.ModelStreamInferResponse(infer_response=response))
        except BatonError as error:
            await self._write(failure(request, error))
        except Exception as defect:
            if self._context.done():
                return
            log.exception("an answer on a stream failed", request_id=request.id)
            broken = EngineFailed(f"{type(defect).__name__} in ModelStreamInfer")
            await self._write(failure(request, broken))

    async def _write(self, response: pb.ModelStreamInferResponse) -> None:
        async with self._turn:
            await self._context.write(response)


def failure(request: pb.ModelInferRequest, error: BatonError) -> pb.ModelStreamInferResponse:
    """The error that ends one request. Triton's clients see only the text, so it names the id."""
    prefix = f"[request id: {request.id}] " if request.id else ""
    response = pb.ModelStreamInferResponse(error_message=f"{prefix}{error.message}")
    response.infer_response.id = request.id
    response.infer_response.model_name = request.model_name
    parameters = response.infer_response.parameters
    parameters[FINAL].bool_param = True
    parameters[REASON].string_param = error.status.reason
    if error.field:
        parameters[FIELD].string_param = error.field
    return response
