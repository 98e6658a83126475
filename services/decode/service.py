"""DecodeService: one stream per gateway; one frame per engine step and stream, or for several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from baton.errors import InvalidRequest
from baton.rpc import logs
from baton.rpc.outbox import Outbox
from baton.v1 import decode_pb2 as pb
from baton.v1 import decode_pb2_grpc
from services.decode.frames import SampleNews, make_frame
from services.decode.sequences import Sequences

log = logs.get_logger(__name__)

DRAIN_POLL_S = 0.05

FRAME_INTERVAL_S = 0.001
"""Between two frames to one gateway. Steps of a model take longer; those that don't are too short
for anyone to see their tokens one by one."""
MAX_WAITING_NEWS = 65_536
"""Tokens and ends that a gateway has not taken; beyond it nothing more is read from it."""


class DecodeService(decode_pb2_grpc.DecodeServiceServicer):
    """All gateways' streams."""

    def __init__(self, epoch: str, sequences: Sequences) -> None:
        self._epoch = epoch
        self._sequences = sequences
        self._num_streams = 0
        self._outboxes: set[Outbox[SampleNews]] = set()

    async def Connect(
        self, request_iterator: AsyncIterator[pb.DecodeConnectRequest], context: Any
    ) -> AsyncIterator[pb.DecodeConnectResponse]:
        """Carries all requests of one gateway."""
        frames = aiter(request_iterator)
        first = await anext(frames, pb.DecodeConnectRequest())
        if not first.gateway_id:
            raise InvalidRequest("gateway_id is empty in the first frame", field="gateway_id")
        self._num_streams += 1
        stream_id = f"{first.gateway_id}#{self._num_streams}"
        outbox: Outbox[SampleNews] = Outbox(FRAME_INTERVAL_S)
        self._outboxes.add(outbox)
        log.info("gateway connected", gateway=first.gateway_id)
        reader = asyncio.create_task(self._read(stream_id, frames, outbox))
        try:
            self._take(stream_id, first, outbox)
            yield pb.DecodeConnectResponse(epoch=self._epoch)
            async for gathered in outbox.batches():
                yield make_frame(gathered)
        finally:
            reader.cancel()
            outbox.close()
            self._outboxes.discard(outbox)
            self._sequences.cancel_stream(stream_id)
            log.info("gateway left", gateway=first.gateway_id)

    async def drain(self) -> None:
        """Waits for all sequences, then ends the streams, which gateways keep open."""
        while len(self._sequences):
            await asyncio.sleep(DRAIN_POLL_S)
        for outbox in self._outboxes:
            outbox.close()

    async def _read(
        self,
        stream_id: str,
        frames: AsyncIterator[pb.DecodeConnectRequest],
        outbox: Outbox[SampleNews],
    ) -> None:
        try:
            async for frame in frames:
                self._take(stream_id, frame, outbox)
                await outbox.has_room(MAX_WAITING_NEWS)
        except Exception:
            log.exception("a gateway's frame could not be taken, its stream ends")
        finally:
            outbox.close()

    def _take(
        self, stream_id: str, frame: pb.DecodeConnectRequest, outbox: Outbox[SampleNews]
    ) -> None:
        for submit in frame.submits:
            self._sequences.submit(stream_id, submit, outbox.put)
        for cancel in frame.cancels:
            index = cancel.sample_index if cancel.HasField("sample_index") else None
            self._sequences.cancel(stream_id, cancel.handle, index)
