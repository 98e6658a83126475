"""What a gateway sees of its workers, with Redis there all the time."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis
from registry_world import FAST, World, eventually, make_record, make_world
from structlog.testing import capture_logs

from baton.engine.types import StepLoad
from baton.registry.announcer import Announcer
from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys
from baton.registry.records import LoadRecord
from baton.registry.timing import Timing


async def test_a_new_worker_is_seen_within_a_fifth_of_a_second(world: World) -> None:
    watcher = await world.watcher()

    worker = await world.worker("d0")
    took_s = await eventually(lambda: "d0" in watcher.workers)

    assert took_s < 0.2
    assert watcher.workers["d0"] == worker.announcer.record
    assert world.ups == [("d0", "e1")]


async def test_news_of_a_worker_do_not_wait_for_the_poll(
    redis_server: EmbeddedRedis, keys: Keys
) -> None:
    slow_poll = Timing(poll_s=60.0)
    async with make_world(redis_server.url, keys, slow_poll) as world:
        watcher = await world.watcher()

        worker = await world.worker("d0")
        up_s = await eventually(lambda: "d0" in watcher.workers)
        await worker.announcer.stop()
        down_s = await eventually(lambda: not watcher.workers)

    assert up_s < 0.2
    assert down_s < 0.2


async def test_a_worker_that_was_there_first_is_seen_at_once(world: World) -> None:
    worker = await world.worker("d0")
    worker.store(1, 2)

    watcher = await world.watcher()

    assert "d0" in watcher.workers
    await eventually(lambda: world.shows(watcher, worker))


async def test_a_worker_that_leaves_is_gone_before_its_lease_ends(world: World) -> None:
    watcher = await world.watcher()
    worker = await world.worker("d0")
    worker.store(1)
    await eventually(lambda: world.shows(watcher, worker))

    await worker.announcer.stop()
    took_s = await eventually(lambda: "d0" not in watcher.workers)

    assert took_s < FAST.lease_s / 3
    assert world.downs == [("d0", "e1")]
    assert watcher.index.num_blocks("d0") == 0


async def test_a_worker_that_dies_is_gone_within_a_second_after_its_lease(world: World) -> None:
    watcher = await world.watcher()
    worker = await world.worker("d0")
    await eventually(lambda: "d0" in watcher.workers)
    await eventually(lambda: watcher.contact.unbroken_s > FAST.lease_s)

    await worker.crash()
    took_s = await eventually(lambda: "d0" not in watcher.workers)

    assert FAST.lease_s - 2 * FAST.refresh_s < took_s < FAST.lease_s + 1.0


async def test_a_living_worker_outlives_its_first_lease(world: World) -> None:
    watcher = await world.watcher()
    await world.worker("d0")

    await eventually(lambda: watcher.contact.unbroken_s > 1.5 * FAST.lease_s)

    assert "d0" in watcher.workers
    assert world.downs == []


async def test_nothing_of_a_dead_worker_stays_in_redis(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(redis_server.url, protocol=2)
    worker = await world.worker("d0")
    worker.store(1)
    worker.announcer.publish_load(StepLoad(num_running=1))
    await eventually(lambda: len(worker.announcer._events) == 0)

    lives_ms = [
        await client.pttl(name) for name in (keys.worker("d0"), keys.events("d0"), keys.load("d0"))
    ]
    await worker.announcer.stop()
    left = await client.exists(keys.worker("d0"), keys.events("d0"), keys.load("d0"))
    await client.aclose()

    assert all(0 < life <= FAST.stream_ttl_s * 1000 for life in lives_ms)
    assert left == 0


async def test_a_new_epoch_is_a_down_and_an_up_with_a_fresh_cache(world: World) -> None:
    watcher = await world.watcher()
    first = await world.worker("d0", "e1")
    first.store(1, 2, 3)
    await eventually(lambda: world.shows(watcher, first))
    await first.crash()

    second = await world.worker("d0", "e2")
    second.store(7)

    await eventually(lambda: world.ups == [("d0", "e1"), ("d0", "e2")])
    await eventually(lambda: world.shows(watcher, second))
    assert world.downs == [("d0", "e1")]
    assert watcher.workers["d0"].epoch == "e2"


async def test_a_restarted_worker_does_not_inherit_its_load(world: World) -> None:
    watcher = await world.watcher()
    first = await world.worker("d0", "e1")
    first.announcer.publish_load({"num_running": 9})
    await eventually(lambda: "d0" in watcher.loads)
    await first.crash()

    await world.worker("d0", "e2")
    await eventually(lambda: watcher.workers["d0"].epoch == "e2")

    assert "d0" not in watcher.loads


async def test_loads_arrive_and_the_newest_wins(world: World) -> None:
    watcher = await world.watcher()
    worker = await world.worker("d0")

    worker.announcer.publish_load({"num_running": 1})
    await eventually(lambda: watcher.loads.get("d0") == LoadRecord(num_running=1))
    for count in range(50):
        worker.announcer.publish_load(StepLoad(num_running=count, num_waiting=2))

    await eventually(lambda: watcher.loads["d0"] == LoadRecord(num_running=49, num_waiting=2))


async def test_load_is_sent_no_more_often_than_allowed(
    own_redis: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(own_redis.url, protocol=2)
    async with make_world(own_redis.url, keys) as world:
        worker = await world.worker("d0")
        await client.config_resetstat()

        start = time.monotonic()
        while time.monotonic() - start < 10 * FAST.load_interval_s:
            worker.announcer.publish_load({"num_running": 1})
            await asyncio.sleep(0)
        most = (time.monotonic() - start) / FAST.load_interval_s + 3
        stats = await client.info("commandstats")
        await client.aclose()

    assert 2 <= stats["cmdstat_set"]["calls"] <= most


async def test_load_of_an_idle_worker_lives_as_long_as_the_worker(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(redis_server.url, protocol=2)
    watcher = await world.watcher()
    worker = await world.worker("d0")
    worker.announcer.publish_load({"num_running": 1})

    await eventually(lambda: watcher.contact.unbroken_s > 1.5 * FAST.lease_s)
    is_there = await client.exists(keys.load("d0"))
    await client.aclose()

    assert is_there == 1


async def test_a_changed_record_arrives_without_a_down(world: World) -> None:
    watcher = await world.watcher()
    worker = await world.worker("d0")
    await eventually(lambda: "d0" in watcher.workers)

    worker.announcer.update_record(is_draining=True)

    await eventually(lambda: watcher.workers["d0"].is_draining)
    assert world.downs == []
    assert world.ups == [("d0", "e1")]


async def test_identity_cannot_be_changed(redis_server: EmbeddedRedis, keys: Keys) -> None:
    announcer = Announcer(redis_server.url, make_record("d0", "e1"), keys=keys)

    with pytest.raises(ValueError, match="keeps its worker_id and epoch"):
        announcer.update_record(epoch="e2")
    await announcer.stop()


async def test_a_record_that_makes_no_sense_hides_nobody_else(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(redis_server.url, protocol=2)
    await client.zadd(keys.workers, {"broken": 9e9})
    await client.hset(keys.worker("broken"), "role", "JESTER")
    await client.aclose()

    watcher = await world.watcher()
    await world.worker("d0")

    await eventually(lambda: list(watcher.workers) == ["d0"])


async def test_a_callback_that_fails_stops_nothing(world: World) -> None:
    watcher = await world.watcher()
    watcher._on_up = lambda record: 1 // 0  # type: ignore[assignment, return-value]

    with capture_logs() as logs:
        await world.worker("d0")
        await eventually(lambda: "d0" in watcher.workers)
        await world.worker("d1")
        await eventually(lambda: "d1" in watcher.workers)

    assert [line["worker_id"] for line in logs if line["log_level"] == "error"] == ["d0", "d1"]


async def test_the_younger_of_two_processes_with_one_name_wins(world: World) -> None:
    watcher = await world.watcher()
    elder = await world.worker("d0", "e1")
    await eventually(lambda: "d0" in watcher.workers)

    with capture_logs() as logs:
        younger = await world.worker("d0", "e2")
        await eventually(lambda: elder.announcer.is_superseded)
    younger.store(1)
    elder.store(2)
    await eventually(lambda: world.shows(watcher, younger))
    await younger.crash()

    assert len([line for line in logs if line["log_level"] == "error"]) == 1
    await eventually(lambda: not elder.announcer.is_superseded)
    await eventually(lambda: world.ups == [("d0", "e1"), ("d0", "e2"), ("d0", "e1")])
