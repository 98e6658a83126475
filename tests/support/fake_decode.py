"""A decode worker without an engine: real sockets and frames, scripted tokens, steps on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from baton import convert
from baton.blocks import KvLayout, unpack_tokens
from baton.errors import BatonError
from baton.request import FinishReason, PrefillMode, SequenceTimings, TokenLogprobs
from baton.rpc.channels import SERVER_OPTIONS
from baton.v1 import decode_pb2, decode_pb2_grpc, types_pb2, worker_pb2, worker_pb2_grpc

WAIT_SECONDS = 5.0
LAYOUT = KvLayout(
    block_size=4, num_layers=2, num_kv_heads=1, head_dim=8, dtype="float32", namespace="ab" * 16
)

Script = Callable[["Submitted", int], Sequence[int]]
"""All output tokens of a sample: (submission, sample index) -> token ids."""


async def eventually(
    claim: Callable[[], bool], what: str = "", timeout: float = WAIT_SECONDS
) -> None:
    """Waits until a claim holds; fails after `timeout`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    while not claim():
        if loop.time() > until:
            raise AssertionError(f"never became true: {what or claim}")
        await asyncio.sleep(0.002)


@dataclass
class Submitted:
    """A submission as it arrived, and the tester's hand on it."""

    message: decode_pb2.SubmitSequence
    connection: Connection
    cancels: list[int | None] = field(default_factory=list)
    """Sample indices of cancels, in order; None: all samples."""
    ended: set[int] = field(default_factory=set)

    @property
    def request_id(self) -> str:
        return self.message.request_id

    @property
    def token_ids(self) -> list[int]:
        return unpack_tokens(self.message.token_ids)

    @property
    def emitted(self) -> list[int]:
        """What was emitted before a migration."""
        return self.token_ids[self.message.prompt_len :]

    @property
    def samples(self) -> range:
        first = self.message.sample_index
        return range(first, first + self.message.sample_count)

    def delta(
        self,
        tokens: Sequence[int] = (),
        *,
        sample: int | None = None,
        end: FinishReason | None = None,
        error: BatonError | None = None,
        timings: SequenceTimings | None = None,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> decode_pb2.SequenceDelta:
        """A delta of this submission, to send with others in one frame."""
        index = self.message.sample_index if sample is None else sample
        message = decode_pb2.SequenceDelta(
            handle=self.message.handle,
            sample_index=index,
            token_ids=tokens,
            logprobs=[convert.logprobs_to_pb(entry) for entry in logprobs],
        )
        if end is not None or error is not None:
            self.ended.add(index)
            reason = FinishReason.ERROR if error is not None else end
            assert reason is not None
            message.end.finish_reason = convert.finish_to_pb(reason)
            message.end.timings.CopyFrom(convert.timings_to_pb(timings or SequenceTimings()))
            if error is not None:
                message.end.error.CopyFrom(convert.error_to_pb(error))
        return message

    async def send(self, tokens: Sequence[int] = (), **how: Any) -> None:
        """One delta in a frame of its own."""
        await self.connection.send(self.delta(tokens, **how))

    async def fail(self, error: BatonError, sample: int | None = None) -> None:
        """Ends a sample with an error."""
        await self.send(sample=sample, error=error)


class Connection:
    """One gateway's stream."""

    def __init__(self, gateway_id: str) -> None:
        self.gateway_id = gateway_id
        self.outgoing: asyncio.Queue[decode_pb2.DecodeConnectResponse | None] = asyncio.Queue()

    async def send(self, *deltas: decode_pb2.SequenceDelta) -> None:
        """One frame."""
        await self.outgoing.put(decode_pb2.DecodeConnectResponse(deltas=deltas))

    def end(self) -> None:
        """Ends the stream behind what is queued, as a restarting worker does."""
        self.outgoing.put_nowait(None)


class FakeDecode(decode_pb2_grpc.DecodeServiceServicer, worker_pb2_grpc.WorkerServiceServicer):
    """The worker. Without a script, nothing is sent but what the test sends."""

    def __init__(self, worker_id: str = "decode-0", model: str = "toy") -> None:
        self.worker_id = worker_id
        self.model = model
        self.epoch = f"{worker_id}-epoch-1"
        self.context_len = 64
        self.role = types_pb2.WORKER_ROLE_DECODE
        self.script: Script | None = None
        self.greets = True
        self.gate = asyncio.Event()
        """Scripted tokens flow while it is set."""
        self.gate.set()
        self.reads = asyncio.Event()
        """Frames from gateways are read while it is set."""
        self.reads.set()
        self.break_after: int | None = None
        """Ends the stream after this many scripted frames."""
        self.ignores_cancels = False
        self.end_timings = SequenceTimings()
        """Told with the end that follows a cancel."""
        self.snapshot: tuple[bytes, int] = (b"", 0)
        self.submissions: list[Submitted] = []
        self.connections: list[Connection] = []
        self.free_blocks = 100
        self.num_snapshots = 0
        self.num_connects = 0
        self.num_frames = 0
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: str = "127.0.0.1:0") -> FakeDecode:
        """Listens; a given address is taken again after `stop`."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        decode_pb2_grpc.add_DecodeServiceServicer_to_server(self, self._server)
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()
        return self

    async def stop(self) -> None:
        """Goes away at once; what was queued is lost."""
        for task in list(self._tasks):
            task.cancel()
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def break_streams(self) -> None:
        """Ends all streams; the worker stays and takes new ones."""
        for connection in list(self.connections):
            connection.end()

    async def submitted(self, count: int = 1) -> Submitted:
        """The submission with this number (from one), once it has come."""
        await eventually(lambda: len(self.submissions) >= count, f"{count} submissions")
        return self.submissions[count - 1]

    async def cancelled(self, submission: Submitted) -> None:
        """Waits until a cancel has come for a submission."""
        await eventually(lambda: bool(submission.cancels), "a cancel")

    async def Connect(
        self, requests: AsyncIterator[decode_pb2.DecodeConnectRequest], context: Any
    ) -> AsyncIterator[decode_pb2.DecodeConnectResponse]:
        self.num_connects += 1
        first = await anext(aiter(requests))
        connection = Connection(first.gateway_id)
        if not self.greets:
            await asyncio.Event().wait()
        yield decode_pb2.DecodeConnectResponse(epoch=self.epoch)
        reader = self._spawn(self._read(requests, connection))
        self.connections.append(connection)
        try:
            while (frame := await connection.outgoing.get()) is not None:
                yield frame
        finally:
            self.connections.remove(connection)
            reader.cancel()

    async def _read(
        self, requests: AsyncIterator[decode_pb2.DecodeConnectRequest], connection: Connection
    ) -> None:
        by_handle: dict[int, Submitted] = {}
        async for frame in requests:
            await self.reads.wait()
            self.num_frames += 1
            for message in frame.submits:
                submission = Submitted(message, connection)
                by_handle[message.handle] = submission
                self.submissions.append(submission)
                if self.script is not None:
                    self._spawn(self._play(submission, self.script))
            for cancel in frame.cancels:
                sample = cancel.sample_index if cancel.HasField("sample_index") else None
                await self._cancel(by_handle[cancel.handle], sample)

    async def _cancel(self, submission: Submitted, sample: int | None) -> None:
        submission.cancels.append(sample)
        if self.ignores_cancels:
            return
        for index in submission.samples if sample is None else [sample]:
            if index not in submission.ended:
                await submission.send(
                    sample=index, end=FinishReason.CANCELLED, timings=self.end_timings
                )

    async def _play(self, submission: Submitted, script: Script) -> None:
        """One token of every sample per frame, as an engine's steps make them."""
        outputs = {index: list(script(submission, index)) for index in submission.samples}
        done = len(submission.emitted)
        sampling = submission.message.sampling
        while submission.ended != set(submission.samples):
            await self.gate.wait()
            deltas = []
            for index in outputs.keys() - submission.ended:
                token = outputs[index][done]
                is_last = done + 1 == min(len(outputs[index]), sampling.max_tokens)
                stops = token in sampling.stop_token_ids
                end = FinishReason.STOP if stops else FinishReason.LENGTH if is_last else None
                deltas.append(
                    submission.delta(
                        [token], sample=index, end=end, timings=self._timings(submission)
                    )
                )
            done += 1
            await submission.connection.send(*deltas)
            if self.break_after is not None:
                self.break_after -= 1
                if self.break_after <= 0:
                    self.break_after = None
                    self.break_streams()
                    return
            await asyncio.sleep(0)

    def _timings(self, submission: Submitted) -> SequenceTimings:
        prefill = submission.message.prefill_worker_id
        mode = PrefillMode.REMOTE if prefill else PrefillMode.LOCAL
        return SequenceTimings(
            prefill_us=2, decode_us=3, prefill_mode=mode, prefill_worker_id=prefill
        )

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def GetWorker(self, request: Any, context: Any) -> worker_pb2.GetWorkerResponse:
        return worker_pb2.GetWorkerResponse(
            worker_id=self.worker_id,
            epoch=self.epoch,
            role=self.role,
            model=self.model,
            context_len=self.context_len,
            block_count=100,
            free_block_count=self.free_blocks,
            layout=convert.layout_to_pb(LAYOUT),
        )

    async def SnapshotBlocks(
        self, request: Any, context: Any
    ) -> AsyncIterator[worker_pb2.SnapshotBlocksResponse]:
        self.num_snapshots += 1
        keys, seq = self.snapshot
        yield worker_pb2.SnapshotBlocksResponse(epoch=self.epoch, event_seq=seq, keys=keys)
