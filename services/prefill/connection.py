"""One decode worker's stream: its sessions, its transport, its outgoing updates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from baton import convert
from baton.engine.types import SequenceSpec, StepOutput
from baton.errors import Overloaded
from baton.rpc import logs
from baton.rpc.outbox import Outbox
from baton.tokens import TokenIds
from baton.transfer.push import Pusher
from baton.v1 import prefill_pb2 as pb
from baton.worker.fetch import BlockFetcher
from baton.worker.host import EngineHost
from services.prefill.session import News, PrefillSession, SessionPlan

log = logs.get_logger(__name__)


@dataclass(slots=True)
class _Running:
    session: PrefillSession
    task: asyncio.Task[None]


class Connection:
    """Sessions of one decode worker, multiplexed on its stream."""

    def __init__(
        self,
        hello: pb.PrefillHello,
        host: EngineHost,
        pusher: Pusher,
        fetcher: BlockFetcher,
        room: Callable[[], int],
    ) -> None:
        """`room` says how many sessions the worker still takes, of all connections."""
        self.connection_id = hello.connection_id
        self.peer_id = hello.worker_id
        self.peer_epoch = hello.epoch
        self.pusher = pusher
        self._verify = hello.verify
        self._host = host
        self._fetcher = fetcher
        self._room = room
        self._running: dict[str, _Running] = {}
        self._outbox: Outbox[pb.SessionUpdate] = Outbox()

    def take(self, frame: pb.PrefillConnectRequest) -> None:
        """Opens and closes what a frame says."""
        for message in frame.opens:
            self._open(message)
        for session_id in frame.closed_session_ids:
            running = self._running.get(self._sequence_id(session_id))
            if running:
                running.task.cancel()

    def deliver(self, output: StepOutput) -> None:
        """Passes the engine's news on to the sessions they belong to."""
        all_news: tuple[News, ...] = (
            *output.reserved,
            *output.progress,
            *output.tokens,
            *output.finished,
        )
        for news in all_news:
            running = self._running.get(news.sequence_id)
            if running:
                running.session.tell(news)

    async def frames(self) -> AsyncIterator[pb.PrefillConnectResponse]:
        """Frames for the stream, behind the hello."""
        async for updates in self._outbox.batches():
            yield pb.PrefillConnectResponse(updates=updates)

    def end_frames(self) -> None:
        """The decode worker says nothing more: ends `frames`."""
        self._outbox.close()

    async def shut(self) -> None:
        """Ends all sessions and returns when their bytes are quiet."""
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            log.warning("sessions ended with their stream", peer=self.peer_id, count=len(tasks))
            await asyncio.wait(tasks)
        self._outbox.close()
        await self.pusher.close()

    @property
    def num_sessions(self) -> int:
        """Sessions that have not ended."""
        return len(self._running)

    def _open(self, message: pb.OpenSession) -> None:
        if self._room() <= 0:
            self._refuse(message.session_id)
            return
        sequence_id = self._sequence_id(message.session_id)
        plan = _plan(message, sequence_id, receive=self._fetcher.is_on, verify=self._verify)
        session = PrefillSession(plan, self._host, self.pusher, self._fetcher, self._outbox.put)
        task = asyncio.create_task(session.run(), name=f"session {sequence_id}")
        self._running[sequence_id] = _Running(session, task)
        task.add_done_callback(lambda _: self._forget(sequence_id))

    def _refuse(self, session_id: int) -> None:
        """The decode worker computes this prompt itself; its gateway looks elsewhere a while."""
        log.warning("session refused, no more are taken", peer=self.peer_id)
        error = Overloaded("this prefill worker takes no more sessions now", retry_after_s=1.0)
        end = pb.SessionEnd(error=convert.error_to_pb(error))
        self._outbox.put(pb.SessionUpdate(session_id=session_id, end=end))

    def _forget(self, sequence_id: str) -> None:
        running = self._running.pop(sequence_id)
        running.session.end_unstarted()

    def _sequence_id(self, session_id: int) -> str:
        return f"{self.connection_id}/{session_id}"


def _plan(message: pb.OpenSession, sequence_id: str, *, receive: bool, verify: bool) -> SessionPlan:
    spec = SequenceSpec(
        sequence_id=sequence_id,
        token_ids=TokenIds(message.token_ids),
        prompt_len=message.prompt_len,
        sampling=convert.sampling_from_pb(message.sampling),
        sample_index=message.sample_index,
        cache_salt=message.cache_salt,
        priority=message.priority,
        receive=receive,
        prefill_only=True,
    )
    return SessionPlan(
        session_id=message.session_id,
        request_id=message.request_id,
        traceparent=message.traceparent,
        spec=spec,
        first_block=message.first_block,
        targets=tuple(message.block_ids),
        lease_s=message.timeout_ms / 1000,
        verify=verify,
    )
