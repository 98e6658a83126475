"""What workers and gateways do while Redis is away, and how they find together again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from registry_world import FAST, World, block_key, eventually, make_record, make_world
from structlog.testing import capture_logs

from baton.registry.announcer import Announcer
from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys

Logs = list[MutableMapping[str, Any]]


@contextmanager
def frozen(server: EmbeddedRedis) -> Iterator[None]:
    """The server accepts connections and answers nothing, as behind a broken network."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_nothing_known_is_lost_while_redis_is_away(
    frail_world: World, own_redis: EmbeddedRedis
) -> None:
    watcher = await frail_world.watcher()
    worker = await frail_world.worker("d0")
    worker.store(1, 2)
    worker.announcer.publish_load({"num_running": 3})
    await eventually(lambda: frail_world.shows(watcher, worker) and watcher.loads)

    own_redis.kill()
    await eventually(lambda: watcher.staleness_s > 1.1 * FAST.lease_s)

    assert frail_world.downs == []
    assert watcher.index.match([block_key(1)]) == {"d0": 1}
    assert watcher.loads["d0"].num_running == 3
    assert not watcher.contact.is_connected


@pytest.mark.parametrize("length", ["short", "longer than a lease"])
async def test_all_reconverges_when_redis_is_back_empty(
    frail_world: World, own_redis: EmbeddedRedis, length: str
) -> None:
    watcher = await frail_world.watcher()
    workers = [await frail_world.worker(f"d{number}") for number in range(3)]
    for worker in workers:
        worker.store(1, 2)
    await eventually(lambda: all(frail_world.shows(watcher, worker) for worker in workers))

    own_redis.kill()
    workers[0].store(3)
    workers[1].remove(1)
    if length != "short":
        await eventually(lambda: watcher.staleness_s > FAST.lease_s)
    own_redis.start()
    took_s = await eventually(lambda: all(frail_world.shows(watcher, worker) for worker in workers))
    workers[2].store(4)
    await eventually(lambda: frail_world.shows(watcher, workers[2]))
    await eventually(lambda: watcher.contact.unbroken_s > 1.1 * FAST.lease_s)

    assert took_s < 1.0
    assert frail_world.downs == []
    assert sorted(watcher.workers) == ["d0", "d1", "d2"]
    assert watcher.staleness_s < 0.5


async def test_buffered_events_need_no_snapshot_after_an_outage(
    frail_world: World, own_redis: EmbeddedRedis
) -> None:
    watcher = await frail_world.watcher()
    worker = await frail_world.worker("d0")
    worker.store(1)
    await eventually(lambda: frail_world.shows(watcher, worker))

    own_redis.kill()
    await eventually(lambda: not worker.announcer.contact.is_connected)
    worker.store(*range(2, 50))
    own_redis.start()

    await eventually(lambda: frail_world.shows(watcher, worker))
    assert worker.announcer.num_lost_events == 0
    assert watcher.follower.num_snapshots == 1


async def test_events_that_did_not_fit_bring_a_snapshot(
    frail_world: World, own_redis: EmbeddedRedis
) -> None:
    watcher = await frail_world.watcher()
    worker = await frail_world.worker("d0", limit=8)
    worker.store(1)
    await eventually(lambda: frail_world.shows(watcher, worker))

    own_redis.kill()
    await eventually(lambda: not worker.announcer.contact.is_connected)
    worker.store(*range(2, 50))
    own_redis.start()

    await eventually(lambda: frail_world.shows(watcher, worker))
    assert worker.announcer.num_lost_events >= 40
    assert watcher.follower.num_gaps == 1


async def test_a_gap_shows_even_when_no_event_follows(
    frail_world: World, own_redis: EmbeddedRedis
) -> None:
    watcher = await frail_world.watcher()
    worker = await frail_world.worker("d0", limit=8)
    worker.store(1)
    await eventually(lambda: frail_world.shows(watcher, worker))

    own_redis.kill()
    await eventually(lambda: not worker.announcer.contact.is_connected)
    worker.store(*range(2, 50))
    worker.announcer._events.drop()
    own_redis.start()

    await eventually(lambda: frail_world.shows(watcher, worker))


async def test_a_worker_that_died_meanwhile_goes_one_lease_after_the_return(
    frail_world: World, own_redis: EmbeddedRedis
) -> None:
    watcher = await frail_world.watcher()
    await frail_world.worker("d0")
    dying = await frail_world.worker("d1")
    await eventually(lambda: len(watcher.workers) == 2)

    own_redis.kill()
    await eventually(lambda: not watcher.contact.is_connected)
    await dying.crash()
    own_redis.start()
    took_s = await eventually(lambda: "d1" not in watcher.workers)

    assert took_s > 0.9 * FAST.lease_s
    assert list(watcher.workers) == ["d0"]


async def test_one_warning_and_one_return_per_outage(
    frail_world: World, own_redis: EmbeddedRedis
) -> None:
    with capture_logs() as logs:
        watcher = await frail_world.watcher()
        worker = await frail_world.worker("d0")
        await eventually(lambda: "d0" in watcher.workers)
        for num_outages in (1, 2):
            own_redis.kill()
            await eventually(lambda: watcher.staleness_s > 0.3)
            own_redis.start()
            await eventually(
                lambda: watcher.contact.is_connected and worker.announcer.contact.is_connected
            )
            assert watcher.contact.num_outages == num_outages

    assert _owners(logs, "redis is away; going on without it") == _owners(logs, "redis is back")
    assert _owners(logs, "redis is back").count("watcher") == 2
    assert _owners(logs, "redis is back").count("announcer of d0") == 2
    assert all("Connect" in line["reason"] for line in logs if "away" in line["event"])
    assert {line["log_level"] for line in logs} <= {"debug", "info", "warning"}


def _owners(logs: Logs, event: str) -> list[str]:
    return sorted(line["owner"] for line in logs if line["event"] == event)


async def test_a_silent_redis_counts_as_away(frail_world: World, own_redis: EmbeddedRedis) -> None:
    watcher = await frail_world.watcher()
    worker = await frail_world.worker("d0")
    await eventually(lambda: frail_world.shows(watcher, worker) and "d0" in watcher.workers)

    with frozen(own_redis):
        await eventually(lambda: watcher.staleness_s > 1.1 * FAST.lease_s)
        worker.store(1)
        assert not watcher.contact.is_connected
        assert not worker.announcer.contact.is_connected

    await eventually(lambda: frail_world.shows(watcher, worker) and len(watcher.index) == 1)
    await eventually(lambda: watcher.contact.unbroken_s > 1.1 * FAST.lease_s)
    assert frail_world.downs == []


async def test_a_redis_that_loses_its_data_costs_no_worker(
    frail_world: World, own_redis: EmbeddedRedis
) -> None:
    client = Redis.from_url(own_redis.url, protocol=2)
    watcher = await frail_world.watcher()
    worker = await frail_world.worker("d0")
    worker.store(1)
    await eventually(lambda: frail_world.shows(watcher, worker))
    await eventually(lambda: watcher.contact.unbroken_s > FAST.lease_s)

    await client.flushall()
    await client.aclose()
    await eventually(lambda: watcher.contact.unbroken_s < FAST.lease_s)
    worker.store(2)

    await eventually(lambda: frail_world.shows(watcher, worker))
    await eventually(lambda: watcher.contact.unbroken_s > 1.1 * FAST.lease_s)
    assert frail_world.downs == []
    assert watcher.contact.num_outages == 0


async def test_streams_of_another_server_may_end_earlier(
    frail_world: World, own_redis: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(own_redis.url, protocol=2)
    watcher = await frail_world.watcher()
    worker = await frail_world.worker("d0")
    worker.store(1)
    await eventually(lambda: frail_world.shows(watcher, worker))
    again = {"epoch": "e1", "seq": 1, "kinds": b"\1", "keys": block_key(1)}
    late = b"9999999999999-0"  # by a clock that is far ahead
    await client.xadd(keys.events("d0"), again, id=late)
    await client.aclose()
    await eventually(lambda: [c.position for c in watcher.follower._cursors.values()] == [late])

    own_redis.kill()
    await eventually(lambda: not watcher.contact.is_connected)
    own_redis.start()
    worker.store(2)

    await eventually(lambda: frail_world.shows(watcher, worker))


async def test_everybody_starts_without_redis_and_meets_when_it_comes(
    own_redis: EmbeddedRedis, keys: Keys
) -> None:
    own_redis.kill()
    async with make_world(own_redis.url, keys) as world:
        watcher = await world.watcher()
        worker = await world.worker("d0")
        worker.store(1)
        assert watcher.workers == {}
        assert not worker.announcer.contact.is_connected

        own_redis.start()

        await eventually(lambda: world.shows(watcher, worker) and "d0" in watcher.workers)


async def test_publishing_without_redis_neither_raises_nor_grows_without_bound(
    own_redis: EmbeddedRedis, keys: Keys
) -> None:
    own_redis.kill()
    async with make_world(own_redis.url, keys) as world:
        worker = await world.worker("d0", limit=100)

        for number in range(1000):
            worker.store(number)
            worker.announcer.publish_load({"num_running": number})
        worker.announcer.update_record(is_draining=True)

        assert len(worker.announcer._events) <= 100


async def test_stopping_without_redis_does_not_hang(own_redis: EmbeddedRedis, keys: Keys) -> None:
    announcer = Announcer(own_redis.url, make_record("d0", "e1"), keys=keys, timing=FAST)
    await announcer.start()

    with frozen(own_redis):
        await announcer.stop()

    assert announcer._task is None
