"""This decode worker's connection to one prefill worker, and the sessions on it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc

from baton import convert
from baton.blocks import checksum, pack_tokens
from baton.engine.arena import Arena
from baton.engine.types import SequenceSpec
from baton.errors import BatonError, TransferFailed, WorkerLost
from baton.rpc import logs
from baton.rpc.channels import TlsFiles, open_channel
from baton.rpc.outbox import Outbox
from baton.rpc.status import from_rpc_error
from baton.transfer.push import Piece
from baton.transfer.receive import BlockReceiver
from baton.transfer.shm import owner_is_dead
from baton.v1 import prefill_pb2 as pb
from baton.v1 import prefill_pb2_grpc

log = logs.get_logger(__name__)

HELLO_S = 5.0
"""A prefill worker on a live network answers a hello in milliseconds."""
QUIET_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class PrefillPeer:
    """A prefill worker, as the gateway names it."""

    worker_id: str
    address: str


@dataclass(frozen=True, slots=True)
class RemotePlan:
    """A prompt to have computed elsewhere."""

    request_id: str
    traceparent: str
    spec: SequenceSpec
    first_block: int
    """Index in the sequence of the first block that is missing here."""
    targets: tuple[int, ...]
    """The reserved blocks from `first_block` on."""
    timeout_s: float
    stall_s: float
    """No news for so long means that the prefill worker hangs."""


@dataclass(slots=True)
class RemoteSession:
    """A hand-off under way: what arrived, how it ended."""

    session_id: int
    plan: RemotePlan
    opened_at: float = field(default_factory=time.monotonic)
    num_landed: int = 0
    """Blocks in place, counted from the plan's first."""
    end: pb.SessionEnd | None = None
    error: BatonError | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_whole(self) -> bool:
        """Whether the prefill worker succeeded and all blocks are in place."""
        return self.end is not None and self.num_landed == len(self.plan.targets)

    async def result(self) -> pb.SessionEnd:
        """Waits for success. Raises what went wrong; no news for too long is `WorkerLost`."""
        while not self.is_whole:
            if self.error is not None:
                raise self.error
            self.news.clear()
            try:
                async with asyncio.timeout(self.plan.stall_s):
                    await self.news.wait()
            except TimeoutError:
                raise WorkerLost(f"no news of the session for {self.plan.stall_s:.1f} s") from None
        assert self.end is not None
        return self.end

    def fail(self, error: BatonError) -> None:
        """Keeps the first error."""
        self.error = self.error or error
        self.news.set()


class PrefillLink:
    """Two streams to a prefill worker: frames, and bytes where memory isn't shared."""

    def __init__(
        self,
        peer: PrefillPeer,
        hello: pb.PrefillHello,
        arena: Arena,
        tls: TlsFiles | None,
    ) -> None:
        self.peer = peer
        self.transport = ""
        self.is_broken = False
        self.has_successor = False
        """Whether the same process has greeted us anew: it ends all earlier sessions before."""
        self._hello = pb.PrefillHello()
        self._hello.CopyFrom(hello)
        self._hello.connection_id = secrets.token_hex(8)
        self._arena = arena
        self._receiver = BlockReceiver(arena, arena.layout.block_bytes)
        self._tls = tls
        self._channel = open_channel(peer.address, tls)
        self._outbox: Outbox[pb.PrefillConnectRequest] = Outbox()
        self._sessions: dict[int, RemoteSession] = {}
        self._last_id = 0
        self.lock_name = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Says hello and learns the transport. Raises `BatonError`; then the link is of no use."""
        stub = prefill_pb2_grpc.PrefillServiceStub(self._channel)
        call = stub.Connect(self._requests())
        frames = aiter(call)
        try:
            async with asyncio.timeout(HELLO_S):
                first = await anext(frames, None)
        except TimeoutError:
            call.cancel()
            await self.close()
            raise WorkerLost(
                f"prefill worker {self.peer.address} did not answer in {HELLO_S} s"
            ) from None
        except grpc.aio.AioRpcError as error:
            await self.close()
            raise from_rpc_error(error) from error
        if first is None:
            await self.close()
            raise WorkerLost(f"prefill worker {self.peer.address} ended the stream at hello")
        self.transport, self.lock_name = first.hello.transport, first.hello.lock_name
        self._tasks.append(asyncio.create_task(self._read_updates(frames)))
        if self.transport == "grpc":
            request = pb.StreamBlocksRequest(connection_id=self._hello.connection_id)
            # Bytes on a connection of their own: frames must not queue behind them.
            self._tasks.append(asyncio.create_task(self._read_blocks(request)))
        log.info("prefill worker connected", peer=self.peer.worker_id, transport=self.transport)

    def open(self, plan: RemotePlan) -> RemoteSession:
        """Starts a hand-off."""
        self._last_id += 1
        session = RemoteSession(self._last_id, plan)
        if self.is_broken:
            session.fail(WorkerLost(f"prefill worker {self.peer.worker_id} is gone"))
            return session
        self._sessions[session.session_id] = session
        if self.transport == "grpc":
            self._receiver.open(
                session.session_id,
                plan.targets,
                lambda count: _landed(session, count),
                session.fail,
            )
        message = _open_message(session)
        self._outbox.put(pb.PrefillConnectRequest(opens=[message]))
        return session

    async def quiet(self, session: RemoteSession, limit_s: float) -> bool:
        """Ends a session; returns whether its bytes are known to be quiet within the limit."""
        self._receiver.close(session.session_id)
        if session.session_id in self._sessions and session.end is None and not self.is_broken:
            closing = pb.PrefillConnectRequest(closed_session_ids=[session.session_id])
            self._outbox.put(closing)
        deadline = time.monotonic() + limit_s
        while not self._is_quiet(session):
            if time.monotonic() >= deadline:
                return False
            session.news.clear()
            try:
                async with asyncio.timeout(QUIET_POLL_S):
                    await session.news.wait()
            except TimeoutError:
                continue
        self._sessions.pop(session.session_id, None)
        return True

    async def close(self) -> None:
        """Gives up the connection."""
        self._break(WorkerLost(f"the link to prefill worker {self.peer.worker_id} was closed"))
        if self._closing is not None:
            await self._closing

    def _is_quiet(self, session: RemoteSession) -> bool:
        # Over a byte stream it is we who write. In shared memory the other side does: it says when
        # it has stopped, or greets us anew, or the kernel says that it is dead.
        if self.transport != "shm" or session.end is not None or self.has_successor:
            return True
        return owner_is_dead(self.lock_name)

    async def _requests(self) -> AsyncIterator[pb.PrefillConnectRequest]:
        yield pb.PrefillConnectRequest(hello=self._hello)
        async for parts in self._outbox.batches():
            frame = pb.PrefillConnectRequest()
            for part in parts:
                frame.MergeFrom(part)
            yield frame

    async def _read_updates(self, frames: AsyncIterator[pb.PrefillConnectResponse]) -> None:
        try:
            async for frame in frames:
                for update in frame.updates:
                    self._take(update)
            self._break(WorkerLost(f"prefill worker {self.peer.worker_id} ended the stream"))
        except grpc.aio.AioRpcError as error:
            self._break(WorkerLost(f"prefill worker {self.peer.worker_id}: {error.details()}"))

    async def _read_blocks(self, request: pb.StreamBlocksRequest) -> None:
        channel = open_channel(self.peer.address, self._tls, has_own_connection=True)
        try:
            stub = prefill_pb2_grpc.PrefillServiceStub(channel)
            async for part in stub.StreamBlocks(request):
                piece = Piece(
                    part.session_id, part.block_index, part.offset_bytes, part.data, part.checksum
                )
                self._receiver.accept(piece)
        except grpc.aio.AioRpcError as error:
            self._break(WorkerLost(f"prefill worker {self.peer.worker_id}: {error.details()}"))
        finally:
            await channel.close(None)

    def _take(self, update: pb.SessionUpdate) -> None:
        session = self._sessions.get(update.session_id)
        if session is None:
            return
        if self.transport == "shm" and update.pushed_block_count:
            self._verify(session, update)
            _landed(session, update.pushed_block_count)
        if update.HasField("end"):
            session.end = update.end
            if update.end.HasField("error"):
                session.fail(convert.error_from_pb(update.end.error))
        session.news.set()

    def _verify(self, session: RemoteSession, update: pb.SessionUpdate) -> None:
        """Compares what lies in the arena with the checksums that came, if any were asked for."""
        for index, expected in enumerate(update.checksums, session.num_landed):
            if checksum(self._arena.block_bytes_view(session.plan.targets[index])) != expected:
                session.fail(TransferFailed(f"block {index} lies here with a wrong checksum"))
                return

    def _break(self, error: WorkerLost) -> None:
        if self.is_broken:
            return
        self.is_broken = True
        self._outbox.close()
        self._closing = asyncio.create_task(self._hang_up())
        if self._sessions:
            log.warning("link broke", peer=self.peer.worker_id, reason=error.message)
        for session in self._sessions.values():
            self._receiver.close(session.session_id)
            session.fail(error)

    async def _hang_up(self) -> None:
        """Ends both streams; what reads them ends with them."""
        for task in self._tasks:
            task.cancel()
        await self._channel.close(None)


def _landed(session: RemoteSession, count: int) -> None:
    session.num_landed = count
    session.news.set()


def _open_message(session: RemoteSession) -> pb.OpenSession:
    plan = session.plan
    return pb.OpenSession(
        session_id=session.session_id,
        request_id=plan.request_id,
        traceparent=plan.traceparent,
        token_ids=pack_tokens(plan.spec.token_ids),
        prompt_len=plan.spec.prompt_len,
        sampling=convert.sampling_to_pb(plan.spec.sampling),
        sample_index=plan.spec.sample_index,
        cache_salt=plan.spec.cache_salt,
        priority=plan.spec.priority,
        timeout_ms=int(plan.timeout_s * 1000),
        first_block=plan.first_block,
        block_ids=plan.targets,
    )
