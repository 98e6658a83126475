"""Which transport a pair of workers uses: the best one that proves to work."""

from __future__ import annotations

from baton.blocks import KvLayout
from baton.errors import TransferFailed
from baton.rpc import logs
from baton.transfer.push import Pusher, ShmPusher, SourceArena, StreamPusher
from baton.transfer.shm import SharedSegment
from baton.v1 import prefill_pb2 as pb

log = logs.get_logger(__name__)

TRANSPORTS = ("shm", "grpc")
"""Best first."""


def make_pusher(
    hello: pb.PrefillHello, arena: SourceArena, layout: KvLayout, *, is_host_memory: bool
) -> Pusher:
    """The pusher for a decode worker's connection. Raises `TransferFailed` where none works.

    Shared memory is chosen by reading the nonce in the decode worker's segment: whoever reads it
    shares its host and its mounts. Anything else is a byte stream, loudly if memory was offered.
    """
    allowed = [name for name in hello.transports if name in TRANSPORTS]
    if "shm" in allowed and hello.HasField("arena"):
        reason = "this worker's arena is not in host memory"
        if is_host_memory:
            try:
                return _shm_pusher(hello, arena, layout)
            except OSError as error:
                reason = str(error)
        log.warning("shared memory refused, falling back", peer=hello.worker_id, reason=reason)
    if "grpc" in allowed:
        return StreamPusher(arena)
    raise TransferFailed(
        f"no transport for decode worker {hello.worker_id}: it allows {', '.join(hello.transports)}"
    )


def _shm_pusher(hello: pb.PrefillHello, arena: SourceArena, layout: KvLayout) -> ShmPusher:
    offered = hello.arena
    num_bytes = offered.block_count * layout.block_bytes
    segment = SharedSegment.open(offered.name, offered.nonce, num_bytes)
    return ShmPusher(arena, segment, layout, offered.block_count)
