"""A prefill worker that breaks the rules of a hand-off, one at a time."""

from __future__ import annotations

import asyncio

import grpc

from baton.blocks import checksum
from baton.transfer.push import PIECE_BYTES
from baton.v1 import prefill_pb2 as pb
from baton.v1 import prefill_pb2_grpc

FAULTS = (
    "wrong checksum",
    "no blocks",
    "ends the stream",
    "refuses hello",
    "reports an error",
    "wrong order",
    "impossible token",
)


class BrokenPrefill(prefill_pb2_grpc.PrefillServiceServicer):
    """Serves PrefillService over a byte stream; entering gives its address."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._pieces: asyncio.Queue[pb.StreamBlocksResponse] = asyncio.Queue()

    async def __aenter__(self) -> str:
        self._server = grpc.aio.server()
        prefill_pb2_grpc.add_PrefillServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def __aexit__(self, *_) -> None:
        await self._server.stop(None)

    async def Connect(self, requests, context):
        frames = aiter(requests)
        hello = (await anext(frames)).hello
        if self._fault == "refuses hello":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        yield pb.PrefillConnectResponse(hello=pb.PrefillHelloReply(transport="grpc"))
        async for frame in frames:
            for session in frame.opens:
                if self._fault == "ends the stream":
                    return
                self._send_blocks(session, _block_bytes(hello.layout))
                yield pb.PrefillConnectResponse(updates=[self._end(session)])

    async def StreamBlocks(self, request, context):
        while True:
            yield await self._pieces.get()

    def _send_blocks(self, session: pb.OpenSession, block_bytes: int) -> None:
        assert block_bytes <= PIECE_BYTES
        indexes = list(range(len(session.block_ids)))
        # None, since these zeros are nobody's KV and a block that came whole is trusted.
        if self._fault in ("no blocks", "reports an error"):
            return
        if self._fault == "wrong order":
            indexes.reverse()
        data = bytes(block_bytes)
        total = checksum(data) ^ (self._fault == "wrong checksum")
        for index in indexes:
            piece = pb.StreamBlocksResponse(
                session_id=session.session_id, block_index=index, data=data, checksum=total
            )
            self._pieces.put_nowait(piece)

    def _end(self, session: pb.OpenSession) -> pb.SessionUpdate:
        end = pb.SessionEnd(token_id=1 << 30 if self._fault == "impossible token" else 9)
        if self._fault == "reports an error":
            end.error.reason, end.error.message = "INTERNAL", "out of order"
        return pb.SessionUpdate(session_id=session.session_id, end=end)


def _block_bytes(layout) -> int:
    return layout.layer_count * 2 * layout.kv_head_count * layout.block_size * layout.head_dim * 4
