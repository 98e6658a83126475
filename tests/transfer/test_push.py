"""Pushers: every byte in its place, nothing written after the end."""

from __future__ import annotations

import asyncio
import random

import pytest

from baton.blocks import KvLayout, checksum
from baton.engine.tensor_arena import TensorArena
from baton.errors import TransferFailed
from baton.transfer.push import PIECE_BYTES, PushJob, ShmPusher, StreamPusher
from baton.transfer.receive import BlockReceiver
from baton.transfer.shm import SharedSegment

SMALL = KvLayout(16, 2, 2, 8, "float32", "test")
# Two and a half pieces a block.
LARGE = KvLayout(16, 5, 2, 1024, "float32", "test")


def filled_arena(layout: KvLayout, num_blocks: int, seed: int) -> TensorArena:
    """An arena whose blocks all differ."""
    arena = TensorArena(layout, num_blocks)
    source = random.Random(seed)
    for block in range(num_blocks):
        arena.write(block, source.randbytes(layout.block_bytes))
    return arena


@pytest.fixture
def target():
    """A decode worker's arena in shared memory, and its mapping by the prefill worker."""
    segment = SharedSegment.create(8 * SMALL.block_bytes)
    peer = SharedSegment.open(segment.name, segment.nonce, 8 * SMALL.block_bytes)
    yield TensorArena(SMALL, 8, buffer=segment.buffer), peer
    segment.close()


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        ((3,), (5,)),
        ((0, 1, 2, 3), (4, 5, 6, 7)),
        ((3, 2, 1), (1, 2, 3)),
        ((0, 1, 4, 5), (7, 6, 2, 3)),
    ],
)
async def test_shared_memory_push_puts_each_block_in_its_place(target, sources, targets):
    arena, peer = target
    source = filled_arena(SMALL, 8, seed=1)
    pusher = ShmPusher(source, peer, SMALL, 8)

    sums = await pusher.push(PushJob(1, 0, sources, targets), verify=True)
    await pusher.close()

    untouched = set(range(8)) - set(targets)
    assert [arena.read(block) for block in targets] == [source.read(block) for block in sources]
    assert sums == [checksum(source.read(block)) for block in sources]
    assert all(arena.read(block) == bytes(SMALL.block_bytes) for block in untouched)


@pytest.mark.parametrize("bad", [8, -1, 1 << 40])
async def test_shared_memory_push_outside_the_arena_is_refused(target, bad):
    _, peer = target
    pusher = ShmPusher(filled_arena(SMALL, 2, seed=1), peer, SMALL, 8)

    with pytest.raises(TransferFailed, match="outside the arena of 8 blocks"):
        await pusher.push(PushJob(1, 0, (0,), (bad,)), verify=False)

    await pusher.close()


@pytest.mark.parametrize("layout", [SMALL, LARGE])
async def test_streamed_blocks_arrive_whole_and_in_order(layout):
    source, arena = filled_arena(layout, 4, seed=2), TensorArena(layout, 8)
    pusher, receiver = StreamPusher(source), BlockReceiver(arena, layout.block_bytes)
    landed: list[int] = []
    receiver.open(9, (6, 0, 3), landed.append, pytest.fail)

    async def carry() -> None:
        async for piece in pusher.pieces():
            assert len(piece.data) <= PIECE_BYTES
            receiver.accept(piece)

    carrier = asyncio.create_task(carry())
    await pusher.push(PushJob(9, 0, (2, 0), (6, 0)), verify=False)
    await pusher.push(PushJob(9, 2, (3,), (3,)), verify=False)
    async with asyncio.timeout(5):
        while len(landed) < 3:
            await asyncio.sleep(0)
    carrier.cancel()

    assert landed == [1, 2, 3]
    assert [arena.read(block) for block in (6, 0, 3)] == [source.read(b) for b in (2, 0, 3)]


async def streamed_pieces(num_blocks: int):
    """The pieces of a push."""
    pusher = StreamPusher(filled_arena(SMALL, num_blocks, seed=3))
    await pusher.push(
        PushJob(1, 0, tuple(range(num_blocks)), tuple(range(num_blocks))), verify=False
    )
    stream = pusher.pieces()
    return [await anext(stream) for _ in range(num_blocks)]


async def test_closed_session_writes_nothing_more():
    pieces, arena = await streamed_pieces(2), TensorArena(SMALL, 2)
    receiver = BlockReceiver(arena, SMALL.block_bytes)
    receiver.open(1, (0, 1), lambda _: None, pytest.fail)
    receiver.accept(pieces[0])

    receiver.close(1)
    receiver.accept(pieces[1])

    assert arena.read(1) == bytes(SMALL.block_bytes)


@pytest.mark.parametrize("fault", ["flipped bit", "skipped", "too many"])
async def test_wrong_pieces_break_their_session_and_write_nothing(fault):
    pieces, arena = await streamed_pieces(2), TensorArena(SMALL, 2)
    receiver = BlockReceiver(arena, SMALL.block_bytes)
    broken: list[TransferFailed] = []
    targets = (0, 1) if fault != "too many" else (0,)
    receiver.open(1, targets, lambda _: None, broken.append)
    bad = pieces[0]
    if fault == "flipped bit":
        data = bytes([bad.data[0] ^ 1]) + bad.data[1:]
        bad = type(bad)(bad.session_id, 0, 0, data, bad.checksum)
    if fault != "skipped":
        receiver.accept(bad)

    receiver.accept(pieces[1])

    assert len(broken) == 1
    assert arena.read(1) == bytes(SMALL.block_bytes)
