"""The two processes of a hand-off, each with the transport code that a worker runs."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import random
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import grpc

from baton.blocks import KvLayout, checksum
from baton.engine.tensor_arena import TensorArena
from baton.rpc.channels import SERVER_OPTIONS, open_channel
from baton.transfer.push import Piece, ShmPusher, StreamPusher
from baton.transfer.receive import BlockReceiver
from baton.transfer.shm import SharedSegment
from baton.v1 import prefill_pb2 as pb
from baton.v1 import prefill_pb2_grpc
from bench.child import answer_all
from bench.messages import (
    AwaitBlocks,
    CopyAll,
    DescribeArena,
    Expect,
    MapArena,
    OpenStream,
    Push,
    SharedArena,
    Span,
    Sums,
)

T = TypeVar("T")
_LANDING_S = 60.0


class _LoopThread:
    """An event loop beside the thread that answers the pipe, as a worker has beside its engine."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Streamer(prefill_pb2_grpc.PrefillServiceServicer):
    """Serves one pusher's pieces, as the prefill service does."""

    def __init__(self, pusher: StreamPusher) -> None:
        self._pusher = pusher

    async def StreamBlocks(
        self, request: pb.StreamBlocksRequest, context: Any
    ) -> AsyncIterator[pb.StreamBlocksResponse]:
        """See the proto."""
        async for piece in self._pusher.pieces():
            yield pb.StreamBlocksResponse(
                session_id=piece.session_id,
                block_index=piece.block_index,
                offset_bytes=piece.offset,
                data=piece.data,
                checksum=piece.checksum,
            )


class _Source:
    """A prefill worker's side: a private arena full of bytes."""

    def __init__(self, layout: KvLayout, num_blocks: int) -> None:
        self._layout = layout
        self._arena = TensorArena(layout, num_blocks)
        self._loop = _LoopThread()
        self._num_bytes = num_blocks * layout.block_bytes
        # Private memory of its own for the plain copy, with every page in place.
        self._plain = mmap.mmap(-1, self._num_bytes)
        source = random.Random(0)
        for block in range(num_blocks):
            self._arena.write(block, source.randbytes(layout.block_bytes))
            self._plain[block * layout.block_bytes] = 1
        self._shm: ShmPusher | None = None
        self._stream = StreamPusher(self._arena)

    def answer(self, message: Any) -> object:
        """Does what a message says."""
        match message:
            case MapArena():
                return self._loop.run(self._map(message.arena))
            case CopyAll():
                return self._copy(message.bytes_at_a_time)
            case Push():
                return self._loop.run(self._push(message))
            case Sums():
                return [checksum(self._arena.block_bytes_view(block)) for block in message.blocks]
        raise TypeError(f"unknown message {message!r}")

    async def _map(self, target: SharedArena) -> str:
        segment = SharedSegment.open(target.name, target.nonce, self._num_bytes)
        self._shm = ShmPusher(self._arena, segment, self._layout, self._arena.num_blocks)
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        prefill_pb2_grpc.add_PrefillServiceServicer_to_server(_Streamer(self._stream), self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    def _copy(self, bytes_at_a_time: int) -> Span:
        target = ctypes.addressof(ctypes.c_char.from_buffer(self._plain))
        source = ctypes.addressof(ctypes.c_char.from_buffer(self._arena.block_bytes_view(0)))
        began, cpu = time.monotonic(), time.process_time()
        for at in range(0, self._num_bytes, bytes_at_a_time):
            size = min(bytes_at_a_time, self._num_bytes - at)
            ctypes.memmove(target + at, source + at, size)
        return Span(began, time.monotonic(), time.process_time() - cpu)

    async def _push(self, push: Push) -> Span:
        pusher = self._shm if push.transport == "shm" else self._stream
        assert pusher is not None
        began, cpu = time.monotonic(), time.process_time()
        for job in push.jobs:
            await pusher.push(job, verify=False)
        return Span(began, time.monotonic(), time.process_time() - cpu)


class _Target:
    """A decode worker's side: an arena in shared memory, a receiver for the stream."""

    def __init__(self, layout: KvLayout, num_blocks: int) -> None:
        self.segment = SharedSegment.create(num_blocks * layout.block_bytes)
        self._arena = TensorArena(layout, num_blocks, buffer=self.segment.buffer)
        self._receiver = BlockReceiver(self._arena, layout.block_bytes)
        self._loop = _LoopThread()
        self._landed = threading.Event()
        self._failure = ""
        self._began = self._ended = self._cpu = self._cpu_used = 0.0

    def answer(self, message: Any) -> object:
        """Does what a message says."""
        match message:
            case DescribeArena():
                return SharedArena(self.segment.name, self.segment.nonce)
            case OpenStream():
                return self._loop.run(self._open(message.address))
            case Expect():
                return self._loop.run(self._expect(message))
            case AwaitBlocks():
                return self._await_blocks()
            case Sums():
                return [checksum(self._arena.block_bytes_view(block)) for block in message.blocks]
        raise TypeError(f"unknown message {message!r}")

    async def _open(self, address: str) -> None:
        self._reader = asyncio.create_task(self._read(address))

    async def _read(self, address: str) -> None:
        channel = open_channel(address, has_own_connection=True)
        stub = prefill_pb2_grpc.PrefillServiceStub(channel)
        async for part in stub.StreamBlocks(pb.StreamBlocksRequest(connection_id="bench")):
            self._receiver.accept(
                Piece(
                    part.session_id, part.block_index, part.offset_bytes, part.data, part.checksum
                )
            )

    async def _expect(self, expect: Expect) -> None:
        self._landed.clear()
        self._began, self._cpu = time.monotonic(), time.process_time()
        last = len(expect.targets)

        def on_landed(count: int) -> None:
            if count == last:
                self._ended = time.monotonic()
                self._cpu_used = time.process_time() - self._cpu
                self._receiver.close(expect.session_id)
                self._landed.set()

        def on_broken(error: Exception) -> None:
            self._failure = str(error)
            self._landed.set()

        self._receiver.open(expect.session_id, expect.targets, on_landed, on_broken)

    def _await_blocks(self) -> Span:
        if not self._landed.wait(_LANDING_S):
            raise TimeoutError(f"blocks did not land in {_LANDING_S} s")
        if self._failure:
            raise RuntimeError(self._failure)
        return Span(self._began, self._ended, self._cpu_used)


def serve_source(pipe: Connection, layout: KvLayout, num_blocks: int) -> None:
    """The prefill worker's side, in the calling process."""
    answer_all(pipe, _Source(layout, num_blocks).answer)


def serve_target(pipe: Connection, layout: KvLayout, num_blocks: int) -> None:
    """The decode worker's side, in the calling process."""
    target = _Target(layout, num_blocks)
    try:
        answer_all(pipe, target.answer)
    finally:
        target.segment.close()
