"""PrefillService: checks a decode worker's hello, picks the transport, then moves frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from baton import convert
from baton.engine.types import StepOutput
from baton.errors import InvalidRequest, LayoutMismatch
from baton.rpc import logs
from baton.transfer.push import StreamPusher
from baton.transfer.select import make_pusher
from baton.transfer.shm import SharedSegment
from baton.v1 import prefill_pb2 as pb
from baton.v1 import prefill_pb2_grpc
from baton.worker.fetch import BlockFetcher
from baton.worker.host import EngineHost
from baton.worker.identity import Identity
from services.prefill.connection import Connection

log = logs.get_logger(__name__)

DRAIN_POLL_S = 0.05


class PrefillService(prefill_pb2_grpc.PrefillServiceServicer):
    """All connections of this prefill worker."""

    def __init__(
        self,
        me: Identity,
        host: EngineHost,
        fetcher: BlockFetcher,
        segment: SharedSegment | None,
        max_sessions: int = 1024,
    ) -> None:
        """`max_sessions` of all connections together."""
        self._me = me
        self._segment = segment
        self._host = host
        self._fetcher = fetcher
        self._max_sessions = max_sessions
        self._connections: dict[str, Connection] = {}
        host.subscribe(self._deliver)
        host.on_failure(lambda _: self._end_streams())

    async def Connect(
        self, request_iterator: AsyncIterator[pb.PrefillConnectRequest], context: Any
    ) -> AsyncIterator[pb.PrefillConnectResponse]:
        """Carries all sessions of one decode worker."""
        frames = aiter(request_iterator)
        hello = await self._read_hello(frames)
        await self._end_earlier(hello)
        connection = self._connect(hello)
        reader = asyncio.create_task(_read(frames, connection))
        try:
            yield self._reply(connection)
            async for frame in connection.frames():
                yield frame
        finally:
            reader.cancel()
            await connection.shut()
            del self._connections[connection.connection_id]
            log.info("decode worker left", peer=connection.peer_id)

    async def StreamBlocks(
        self, request: pb.StreamBlocksRequest, context: Any
    ) -> AsyncIterator[pb.StreamBlocksResponse]:
        """Carries the bytes of one connection."""
        connection = self._connections.get(request.connection_id)
        if connection is None or not isinstance(connection.pusher, StreamPusher):
            raise InvalidRequest(
                f"connection_id {request.connection_id!r} names no open connection over grpc",
                field="connection_id",
            )
        async for piece in connection.pusher.pieces():
            yield pb.StreamBlocksResponse(
                session_id=piece.session_id,
                block_index=piece.block_index,
                offset_bytes=piece.offset,
                data=piece.data,
                checksum=piece.checksum,
            )

    async def drain(self) -> None:
        """Waits for all sessions, then ends the streams, which decode workers keep open."""
        while any(connection.num_sessions for connection in self._connections.values()):
            await asyncio.sleep(DRAIN_POLL_S)
        self._end_streams()

    def _room(self) -> int:
        """Sessions that may be opened."""
        running = sum(connection.num_sessions for connection in self._connections.values())
        return self._max_sessions - running

    def _end_streams(self) -> None:
        """Lets decode workers go; what they still wait for they compute themselves."""
        for connection in self._connections.values():
            connection.end_frames()

    async def _read_hello(self, frames: AsyncIterator[pb.PrefillConnectRequest]) -> pb.PrefillHello:
        first = await anext(frames, pb.PrefillConnectRequest())
        hello = first.hello
        if not hello.connection_id or hello.connection_id in self._connections:
            raise InvalidRequest(
                f"connection_id {hello.connection_id!r} is empty or in use",
                field="hello.connection_id",
            )
        ours, theirs = self._host.engine.layout, convert.layout_from_pb(hello.layout)
        if ours != theirs:
            raise LayoutMismatch(
                f"decode worker {hello.worker_id} has layout {theirs}, this worker has {ours}",
                field="hello.layout",
            )
        return hello

    async def _end_earlier(self, hello: pb.PrefillHello) -> None:
        """Ends what is left of a connection that its decode worker has lost.

        The reply to a hello thereby says that no byte of earlier sessions is written any more.
        """
        for connection in list(self._connections.values()):
            if (connection.peer_id, connection.peer_epoch) == (hello.worker_id, hello.epoch):
                await connection.shut()

    def _connect(self, hello: pb.PrefillHello) -> Connection:
        arena = self._host.engine.arena
        pusher = make_pusher(
            hello, arena, self._host.engine.layout, is_host_memory=self._segment is not None
        )
        connection = Connection(hello, self._host, pusher, self._fetcher, self._room)
        self._connections[connection.connection_id] = connection
        log.info("decode worker connected", peer=hello.worker_id, transport=pusher.name)
        return connection

    def _reply(self, connection: Connection) -> pb.PrefillConnectResponse:
        lock = self._segment.name if self._segment and connection.pusher.name == "shm" else ""
        return pb.PrefillConnectResponse(
            hello=pb.PrefillHelloReply(
                worker_id=self._me.worker_id,
                epoch=self._me.epoch,
                transport=connection.pusher.name,
                lock_name=lock,
            )
        )

    def _deliver(self, output: StepOutput) -> None:
        for connection in self._connections.values():
            connection.deliver(output)


async def _read(frames: AsyncIterator[pb.PrefillConnectRequest], connection: Connection) -> None:
    """Ends when the decode worker half-closes or sends nonsense; the connection then ends too."""
    try:
        async for frame in frames:
            connection.take(frame)
    except Exception:
        log.exception("a decode worker's frame could not be taken, its stream ends")
    finally:
        connection.end_frames()
