"""Two gateways before one worker, with a real Redis between them: whose turn it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from baton.registry.bookings import BookingBoard
from baton.registry.embedded import EmbeddedRedis
from baton.registry.timing import Timing
from baton.request import FinishReason
from tests.support.fake_decode import FakeDecode, eventually
from tests.support.gateway_world import MODEL, World, open_world, record_of

SLOTS = 8
TIMING = Timing(booking_interval_s=0.02)
"""Leases stay long: on a busy machine a short one would end, and with it what is known."""


@pytest.fixture
async def pair(model_folder) -> AsyncIterator[tuple[World, World, FakeDecode]]:
    """Two gateways that know each other's lines, and their one worker of 8 sequences."""
    with EmbeddedRedis() as redis:
        async with AsyncExitStack() as stack:
            worlds = []
            for name in ("gateway-0", "gateway-1"):
                board = BookingBoard(redis.url, name, timing=TIMING)
                await board.start()
                stack.push_async_callback(board.stop)
                world = open_world(model_folder, slots=SLOTS, board=board)
                worlds.append(await stack.enter_async_context(world))
            one, two = worlds
            worker = await one.add()
            two.directory.up(record_of(worker))
            await two.linked(worker.worker_id)
            yield one, two, worker


def num_sent(worker: FakeDecode, name: str) -> int:
    """Requests of this name that have reached the worker."""
    return sum(submission.request_id == name for submission in worker.submissions)


async def serve(world: World, worker: FakeDecode, name: str, num_left: int) -> None:
    """The worker answers what it gets of this name until it has only so much of it.

    Rounds, because what a gateway takes a moment after the first word of another one's line is
    still by what it knew before.
    """
    ended: set[int] = set()
    for _ in range(4):
        mine = [s for s in worker.submissions if s.request_id == name and id(s) not in ended]
        if len(mine) == num_left:
            return
        for submission in mine:
            ended.add(id(submission))
            await submission.send(world.ids("the"), end=FinishReason.LENGTH)
        await eventually(lambda: num_sent(worker, name) >= len(ended) + num_left, f"more of {name}")
    raise AssertionError(f"{name} still has {num_sent(worker, name) - len(ended)} in flight")


async def flood(world: World, name: str, count: int, **changes: object) -> list:
    """So many requests, all in the gateway."""
    tasks = [world.start(request_id=name, **changes) for _ in range(count)]
    await eventually(lambda: world.core.num_requests == count)
    return tasks


async def test_a_tenant_at_another_gateway_gets_its_share_of_what_one_gateway_held(pair):
    one, two, worker = pair
    tasks = await flood(one, "ann", 6 * SLOTS, tenant="ann")
    await worker.submitted(SLOTS)
    await eventually(lambda: bool(two.board.other_lines(MODEL)), "ann's line is known")
    tasks += await flood(two, "ben", 3 * SLOTS, tenant="ben")
    await eventually(lambda: bool(one.board.other_lines(MODEL)), "ben's line is known")

    await eventually(lambda: num_sent(worker, "ben") == SLOTS // 2, "half of the room for ben")
    await serve(one, worker, "ann", SLOTS // 2)

    assert num_sent(worker, "ben") == SLOTS // 2
    for task in tasks:
        task.cancel()


async def test_a_higher_priority_goes_first_whichever_gateway_it_waits_at(pair):
    one, two, worker = pair
    tasks = await flood(one, "low", 6 * SLOTS)
    await worker.submitted(SLOTS)
    tasks += await flood(two, "high", 3 * SLOTS, priority=5)
    await eventually(lambda: num_sent(worker, "high") == SLOTS, "all the room for the higher one")
    await eventually(lambda: bool(one.board.other_lines(MODEL)), "the line is known")

    await serve(one, worker, "low", 1)

    for task in tasks:
        task.cancel()
