"""`GatewayService.Session`: many requests on one stream, each with one end of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace

from baton.errors import AlreadyRunning, BatonError, Overloaded
from baton.rpc import logs
from baton.v1 import gateway_pb2 as pb
from services.gateway.grpc_messages import Surroundings, Writer, fields_of, request_id_of
from services.gateway.session_outbox import Run, SessionOutbox
from services.gateway.types import Final, Gateway
from services.gateway.validation import resolve

log = logs.get_logger(__name__)

RETRY_AFTER_SECONDS = 1.0


class SessionDoor:
    """All sessions of this gateway."""

    def __init__(self, gateway: Gateway, max_timeout_s: float, max_requests: int) -> None:
        self._gateway = gateway
        self._max_timeout_s = max_timeout_s
        self._max_requests = max_requests
        self._sessions: set[_Session] = set()
        self._is_draining = False
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    async def serve(
        self, requests: AsyncIterator[pb.SessionRequest], around: Surroundings
    ) -> AsyncGenerator[pb.SessionResponse, None]:
        """One session. Closing it cancels what runs in it."""
        session = _Session(self._gateway, around, self._max_timeout_s, self._max_requests)
        self._sessions.add(session)
        self._is_empty.clear()
        if self._is_draining:
            session.outbox.finish()
        reader = asyncio.create_task(session.read(requests))
        try:
            async for frame in session.outbox.frames():
                yield frame
        finally:
            reader.cancel()
            session.leave()
            self._sessions.discard(session)
            if not self._sessions:
                self._is_empty.set()

    async def drain(self) -> None:
        """Ends each session behind its last request; new submissions are refused meanwhile."""
        self._is_draining = True
        for session in self._sessions:
            session.outbox.finish()
        await self._is_empty.wait()


class _Session:
    """One client's stream."""

    def __init__(
        self, gateway: Gateway, around: Surroundings, max_timeout_s: float, max_requests: int
    ) -> None:
        self.outbox = SessionOutbox(max_requests)
        self._gateway = gateway
        self._around = around
        self._ends_at = None
        if around.left_s is not None:
            self._ends_at = asyncio.get_running_loop().time() + around.left_s
        self._max_timeout_s = max_timeout_s
        self._max_requests = max_requests

    async def read(self, requests: AsyncIterator[pb.SessionRequest]) -> None:
        """Takes frames until the client closes its side."""
        try:
            async for frame in requests:
                for submit in frame.submits:
                    self._submit(submit)
                for cancel in frame.cancels:
                    self._cancel(cancel.handle)
                await self.outbox.has_room()
        except Exception:
            log.exception("a session's frames could not be read, it ends")
            self.leave()
        finally:
            self.outbox.finish()

    def leave(self) -> None:
        """Ends all requests: nobody waits for them any more."""
        for run in self.outbox.runs.values():
            run.cancel()

    def _submit(self, submit: pb.SessionSubmit) -> None:
        handle = submit.handle
        try:
            self._check_place(handle)
            run = Run(handle, request_id_of(submit.request), self.outbox)
        except BatonError as error:
            self.outbox.refuse(handle, submit.request.request_id, error)
            return
        self.outbox.runs[handle] = run
        run.start(self._answer(run, submit))

    def _check_place(self, handle: int) -> None:
        runs = self.outbox.runs
        if handle in runs:
            raise AlreadyRunning(
                f"handle {handle} is in use; its request goes on, this one is refused",
                field="handle",
            )
        if len(runs) >= self._max_requests:
            raise Overloaded(
                f"this session has {len(runs)} requests in flight, the limit; come back in "
                f"{RETRY_AFTER_SECONDS:g} s",
                retry_after_s=RETRY_AFTER_SECONDS,
            )

    def _cancel(self, handle: int) -> None:
        run = self.outbox.runs.get(handle)
        if run is not None:
            run.cancel()

    async def _answer(self, run: Run, submit: pb.SessionSubmit) -> Final:
        fields = fields_of(submit.request, run.request_id, self._surroundings(submit))
        command = await resolve(self._gateway, fields, max_timeout_s=self._max_timeout_s)
        _, text = await self._gateway.text(command.model)
        run.writer = Writer(submit.request, text)
        return await self._gateway.attend(command, run.tray)

    def _surroundings(self, submit: pb.SessionSubmit) -> Surroundings:
        traceparent = submit.traceparent or self._around.traceparent
        around = replace(self._around, traceparent=traceparent)
        if self._ends_at is None:
            return around
        return replace(around, left_s=self._ends_at - asyncio.get_running_loop().time())
