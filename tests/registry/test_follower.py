"""The block index follows what workers cache, whatever happens to the event streams."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from registry_world import FAST, World, block_key, eventually, make_record
from structlog.testing import capture_logs

from baton.policy.rendezvous import choose, node_seed
from baton.registry.announcer import Announcer
from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys
from baton.registry.watcher import Watcher
from baton.request import Role


async def test_the_index_follows_any_order_of_events(world: World) -> None:
    rng = random.Random(5)
    watcher = await world.watcher()
    worker = await world.worker("d0")
    for _ in range(300):
        numbers = rng.sample(range(40), 3)
        if rng.random() < 0.02:
            worker.clear()
        elif rng.random() < 0.6:
            worker.store(*numbers)
        else:
            worker.remove(*numbers)
        if rng.random() < 0.1:
            await asyncio.sleep(0.001)

    await eventually(lambda: world.shows(watcher, worker) and not len(worker.announcer._events))

    assert watcher.follower.num_gaps == 0
    assert watcher.follower.num_snapshots == 1


async def test_many_events_pass_in_batches(world: World) -> None:
    watcher = await world.watcher()
    worker = await world.worker("d0")
    await eventually(lambda: watcher.follower.is_synced("d0"))

    worker.store(*range(20_000))

    await eventually(lambda: watcher.index.num_blocks("d0") == 20_000)
    assert watcher.follower.num_gaps == 0


async def test_a_gap_in_the_events_brings_a_snapshot(world: World) -> None:
    watcher = await world.watcher()
    worker = await world.worker("d0")
    worker.store(1)
    await eventually(lambda: world.shows(watcher, worker))

    worker.store(2)
    worker.announcer._events.drop()  # as in an outage that lasts too long
    worker.store(3)

    await eventually(lambda: world.shows(watcher, worker))
    assert watcher.follower.num_gaps == 1
    assert watcher.follower.num_snapshots == 2


async def test_an_entry_that_makes_no_sense_brings_a_snapshot(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(redis_server.url, protocol=2)
    watcher = await world.watcher()
    worker = await world.worker("d0")
    worker.store(1)
    await eventually(lambda: world.shows(watcher, worker))

    worker.cache.add(2)
    await client.xadd(keys.events("d0"), {"epoch": "e1", "seq": 2, "kinds": b"\1", "keys": b"?"})
    await client.aclose()

    await eventually(lambda: world.shows(watcher, worker))


async def test_an_entry_that_comes_twice_counts_once(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(redis_server.url, protocol=2)
    watcher = await world.watcher()
    worker = await world.worker("d0")
    worker.store(1)
    worker.remove(1)
    await eventually(lambda: [c.seq for c in watcher.follower._cursors.values()] == [2])

    again = {"epoch": "e1", "seq": 1, "kinds": b"\1", "keys": block_key(1)}
    await client.xadd(keys.events("d0"), again)
    await client.aclose()
    worker.store(2)

    await eventually(lambda: watcher.index.match([block_key(2)]))
    assert world.shows(watcher, worker)
    assert watcher.follower.num_snapshots == 1


async def test_events_that_come_in_the_wrong_order_leave_the_right_blocks(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(redis_server.url, protocol=2)
    watcher = await world.watcher()
    worker = await world.worker("d0")
    worker.store(1)
    await eventually(lambda: world.shows(watcher, worker))
    worker.store(2)
    worker.remove(2)
    worker.announcer._events.drop()  # they come by hand, the later one first

    stored = {"epoch": "e1", "seq": 2, "kinds": b"\1", "keys": block_key(2)}
    removed = {"epoch": "e1", "seq": 3, "kinds": b"\2", "keys": block_key(2)}
    await client.xadd(keys.events("d0"), removed)
    await eventually(lambda: watcher.follower.num_gaps and watcher.follower.is_synced("d0"))
    await client.xadd(keys.events("d0"), stored)
    await client.aclose()
    worker.store(3)

    await eventually(lambda: watcher.index.match([block_key(3)]))
    assert world.shows(watcher, worker)


async def test_events_of_an_old_epoch_are_ignored(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(redis_server.url, protocol=2)
    watcher = await world.watcher()
    worker = await world.worker("d0", "e2")
    worker.store(1)
    await eventually(lambda: world.shows(watcher, worker))

    old = {"epoch": "e1", "seq": 2, "kinds": b"\1", "keys": block_key(66)}
    await client.xadd(keys.events("d0"), old)
    await client.aclose()
    worker.store(2)

    await eventually(lambda: watcher.index.num_blocks("d0") == 2)
    assert world.shows(watcher, worker)
    assert watcher.follower.num_gaps == 0


async def test_a_failing_snapshot_is_asked_for_again(world: World) -> None:
    world.refuse_snapshots = 3
    worker = await world.worker("d0")
    worker.store(1)
    with capture_logs() as logs:
        watcher = await world.watcher()

        await eventually(lambda: world.shows(watcher, worker))

    warnings = [line for line in logs if line["log_level"] == "warning"]
    assert len(warnings) == 1
    assert "the worker does not answer" in warnings[0]["reason"]


async def test_events_during_a_snapshot_are_not_lost(world: World) -> None:
    worker = await world.worker("d0")
    worker.store(1)
    world.may_answer.clear()
    watcher = await world.watcher()
    await eventually(lambda: world.num_asked == 1)

    worker.store(2)
    worker.remove(1)
    await eventually(lambda: not len(worker.announcer._events))
    world.may_answer.set()

    await eventually(lambda: world.shows(watcher, worker))
    assert watcher.follower.num_snapshots == 1


async def test_streams_are_bounded_and_a_slow_reader_starts_over(
    world: World, redis_server: EmbeddedRedis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("baton.registry.events.MAX_BATCH_EVENTS", 1)
    monkeypatch.setattr("baton.registry.commands.MAX_STREAM_ENTRIES", 10)
    client = Redis.from_url(redis_server.url, protocol=2)
    worker = await world.worker("d0")
    world.may_answer.clear()
    watcher = await world.watcher()
    await eventually(lambda: world.num_asked == 1)

    worker.store(*range(350))
    await eventually(lambda: not len(worker.announcer._events))
    num_entries = await client.xlen(keys.events("d0"))
    await client.aclose()
    world.may_answer.set()

    await eventually(lambda: world.shows(watcher, worker))
    assert num_entries <= 10 + 100  # Redis trims whole nodes of 100 entries
    assert watcher.follower.num_gaps == 1


def stored(watcher: Watcher, numbers: range) -> int:
    """Leading blocks of a chain that stores hold, as a gateway knows."""
    return watcher.index.walk([block_key(number) for number in numbers]).num_stored


async def test_what_several_stores_hold_counts_together_and_ends_with_the_one_that_is_lost(
    world: World,
) -> None:
    watcher = await world.watcher()
    first, second = [await world.worker(name, role=Role.KVSTORE) for name in ("k0", "k1")]
    worker = await world.worker("d0")

    first.store(*range(100), *range(200, 300))
    second.store(*range(100, 200))
    worker.store(*range(50))
    await eventually(lambda: stored(watcher, range(400)) == 300)
    chain = [block_key(number) for number in range(400)]
    await eventually(lambda: watcher.index.match(chain) == {"d0": 50})
    second.remove(170)
    await eventually(lambda: stored(watcher, range(400)) == 170)
    await second.announcer.stop()
    await eventually(lambda: stored(watcher, range(400)) == 100)


async def test_what_lies_where_workers_do_not_look_for_it_does_not_count(world: World) -> None:
    watcher = await world.watcher()
    addresses = ["host-0:1", "host-1:1"]
    stores = [await world.worker(name, role=Role.KVSTORE) for name in ("k0", "k1")]
    for store, address in zip(stores, addresses, strict=True):
        store.announcer.update_record(address=address)
    place = choose(block_key(0), [node_seed(address) for address in addresses])
    worker = await world.worker("d0")

    stores[1 - place].store(*range(10))
    await eventually(lambda: stored(watcher, range(20)) == 10)  # nobody says where he looks
    worker.announcer.update_record(labels={"kvstores": ",".join(addresses)})
    await eventually(lambda: stored(watcher, range(20)) == 0)
    stores[place].store(*range(5))
    await eventually(lambda: stored(watcher, range(20)) == 5)


async def test_a_store_that_is_about_to_leave_does_not_count(world: World) -> None:
    watcher = await world.watcher()
    store = await world.worker("k0", role=Role.KVSTORE)
    store.store(1, 2)
    await eventually(lambda: stored(watcher, range(1, 5)) == 2)

    store.announcer.update_record(is_draining=True)

    await eventually(lambda: stored(watcher, range(1, 5)) == 0)


async def test_a_store_with_a_new_epoch_is_asked_again_what_it_holds(world: World) -> None:
    watcher = await world.watcher()
    old = await world.worker("k0", role=Role.KVSTORE)
    old.store(*range(10))
    await eventually(lambda: stored(watcher, range(20)) == 10)
    await old.crash()

    world.refuse_snapshots = 1_000_000
    young = await world.worker("k0", "e2", Role.KVSTORE)
    young.cache.update(range(4))  # what its disk has kept: no event tells of it
    world.refuse_snapshots = 0
    await eventually(lambda: stored(watcher, range(20)) == 4)
    young.store(4)

    await eventually(lambda: stored(watcher, range(20)) == 5)
    assert stored(watcher, range(5, 20)) == 0


async def test_a_foreign_worker_is_seen_and_not_followed(world: World) -> None:
    watcher = await world.watcher()
    record = replace(make_record("f0", "e1"), labels={"events": "none"})
    announcer = Announcer(world.url, record, keys=world.keys, timing=FAST)
    world.announcers.append(announcer)

    await announcer.start()
    await eventually(lambda: "f0" in watcher.workers)

    assert watcher.follower._cursors == {}
    assert world.num_asked == 0


async def test_two_watchers_agree(world: World) -> None:
    watchers = [await world.watcher(), await world.watcher()]
    workers = [await world.worker(f"d{number}") for number in range(3)]
    for number, worker in enumerate(workers):
        worker.store(*range(number + 1))

    await eventually(
        lambda: all(world.shows(watcher, worker) for watcher in watchers for worker in workers)
    )

    chain = [block_key(number) for number in range(5)]
    assert [watcher.index.match(chain) for watcher in watchers] == [{"d0": 1, "d1": 2, "d2": 3}] * 2


async def test_a_snapshot_of_a_later_epoch_is_given_up_and_asked_for_again(world: World) -> None:
    watcher = await world.watcher()
    elder = await world.worker("d0", "e1")
    elder.store(1)
    await eventually(lambda: world.shows(watcher, elder))
    await elder.crash()
    world.may_answer.clear()
    elder.announcer._events.drop()

    younger = await world.worker("d0", "e2")
    younger.store(5, 6, 7)
    world.may_answer.set()

    await eventually(lambda: watcher.workers["d0"].epoch == "e2")
    await eventually(lambda: world.shows(watcher, younger))
    assert len(watcher.index) >= 3
