"""Gateways see what they have promised together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis
from registry_world import FAST, eventually

from baton.policy.shares import NOBODY, Line
from baton.registry.bookings import NOTHING, BookingBoard, Promise
from baton.registry.contact import end
from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys

MakeBoard = Callable[[str], BookingBoard]


@pytest.fixture
async def make_board(own_redis: EmbeddedRedis, keys: Keys) -> AsyncIterator[MakeBoard]:
    """Boards of gateways around one server."""
    boards: list[BookingBoard] = []

    def make(gateway_id: str) -> BookingBoard:
        boards.append(BookingBoard(own_redis.url, gateway_id, keys=keys, timing=FAST))
        return boards[-1]

    yield make
    for board in boards:
        await board.stop()


def loads(board: BookingBoard, worker_id: str) -> tuple[int, int]:
    """Sequences and tokens promised, new or not."""
    promise = board.promised(worker_id)
    return promise.num_sequences, promise.num_tokens


async def test_own_bookings_count_at_once(make_board: MakeBoard) -> None:
    board = make_board("g0")

    first = board.book("d0", 100)
    board.book("d0", 50, num_sequences=2)
    assert board.promised("d0") == Promise(3, 150, 150)

    board.release(first)
    board.release(first)
    assert board.promised("d0") == Promise(2, 50, 50)
    assert board.promised("d1") == NOTHING


async def test_tokens_go_with_the_first_token_and_sequences_stay(make_board: MakeBoard) -> None:
    board = make_board("g0")
    booking = board.book("d0", 100, num_sequences=2)

    board.computed(booking)
    board.computed(booking)
    assert board.promised("d0") == Promise(2, 0)
    assert board.gone("d0") == Promise(0, 100)

    board.release(booking)
    assert board.promised("d0") == NOTHING
    assert board.gone("d0") == Promise(2, 100)


async def test_tokens_are_new_and_gone_only_for_a_while(make_board: MakeBoard) -> None:
    board = make_board("g0")
    board.release(board.book("d0", 30))
    board.book("d0", 100)
    board.take_changed()

    await eventually(lambda: board.take_changed() == {"d0"})

    assert board.promised("d0") == Promise(1, 100)
    assert board.gone("d0") == NOTHING


async def test_bookings_of_others_arrive_and_leave(make_board: MakeBoard) -> None:
    here, there, third = make_board("g0"), make_board("g1"), make_board("g2")
    for board in (here, there, third):
        await board.start()

    booking = here.book("d0", 100)
    there.book("d0", 10)
    there.book("d1", 5)

    await eventually(lambda: loads(third, "d0") == (2, 110))
    await eventually(lambda: loads(here, "d1") == (1, 5))
    here.release(booking)
    await eventually(lambda: loads(third, "d0") == (1, 10))
    await eventually(lambda: loads(there, "d0") == (1, 10))


async def test_bookings_of_a_gateway_that_stops_are_gone(make_board: MakeBoard) -> None:
    here, there = make_board("g0"), make_board("g1")
    await here.start()
    await there.start()
    there.book("d0", 10)
    await eventually(lambda: loads(here, "d0") == (1, 10))

    await there.stop()

    await eventually(lambda: here.promised("d0") == NOTHING, FAST.lease_s / 2)


async def test_bookings_of_a_gateway_that_dies_end_with_its_lease(make_board: MakeBoard) -> None:
    here, there = make_board("g0"), make_board("g1")
    await here.start()
    await there.start()
    there.book("d0", 10)
    await eventually(lambda: loads(here, "d0") == (1, 10))

    assert there._task is not None
    there._task.cancel()

    await eventually(lambda: here.promised("d0") == NOTHING, FAST.lease_s + 1.0)


async def test_lasting_bookings_outlive_their_first_lease(make_board: MakeBoard) -> None:
    here, there = make_board("g0"), make_board("g1")
    await here.start()
    await there.start()
    there.book("d0", 10)

    await eventually(lambda: here.contact.unbroken_s > 1.5 * FAST.lease_s)

    assert loads(here, "d0") == (1, 10)


async def test_without_redis_own_bookings_count_and_stale_ones_end(
    make_board: MakeBoard, own_redis: EmbeddedRedis
) -> None:
    here, there = make_board("g0"), make_board("g1")
    await here.start()
    await there.start()
    there.book("d0", 10)
    await eventually(lambda: loads(here, "d0") == (1, 10))

    own_redis.kill()
    here.book("d0", 1)
    assert loads(here, "d0") == (2, 11)
    await eventually(lambda: loads(here, "d0") == (1, 1))
    own_redis.start()

    await eventually(lambda: loads(here, "d0") == (2, 11))


async def test_many_bookings_are_told_together(
    make_board: MakeBoard, own_redis: EmbeddedRedis
) -> None:
    client = Redis.from_url(own_redis.url, protocol=2)
    here, there = make_board("g0"), make_board("g1")
    await here.start()
    await there.start()
    await client.config_resetstat()

    for _ in range(500):
        here.book("d0", 1)
    await eventually(lambda: loads(there, "d0") == (500, 500))
    stats = await client.info("commandstats")
    await client.aclose()

    assert stats["cmdstat_hset"]["calls"] <= 3


async def test_a_gateway_that_died_is_swept_off_the_list(
    make_board: MakeBoard, own_redis: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(own_redis.url, protocol=2)
    here, dying = make_board("g0"), make_board("g1")
    await here.start()
    await dying.start()
    dying.book("d0", 10)
    await eventually(lambda: here.promised("d0") == Promise(1, 10))

    task, dying._task = dying._task, None
    assert task is not None
    await end(task)
    await eventually(lambda: here.promised("d0") == NOTHING)
    while b"g1" in (listed := await client.zrange(keys.gateways, 0, -1)):
        await asyncio.sleep(0.01)
    await client.aclose()

    assert listed == [b"g0"]


async def test_gateways_tell_each_other_who_waits(make_board: MakeBoard) -> None:
    one, two = make_board("g0"), make_board("g1")
    lines = {"demo": Line(5, {"ann": 300.0})}
    one.share_lines(lambda: lines)
    await one.start()
    await two.start()
    await eventually(lambda: two.other_lines("demo") == [Line(5, {"ann": 300.0})])
    assert not one.other_lines("demo")
    assert not two.other_lines("other")

    lines.clear()
    await eventually(lambda: not two.other_lines("demo"))


async def test_a_line_that_cannot_be_read_is_nobodys(
    make_board: MakeBoard, own_redis: EmbeddedRedis, keys: Keys
) -> None:
    one, two = make_board("g0"), make_board("g1")
    await one.start()
    await two.start()
    async with Redis.from_url(own_redis.url) as redis:
        await redis.hset(keys.lines("g0"), "demo", b"no line")

    await eventually(lambda: two.other_lines("demo") == [NOBODY])
