"""What the registry knows becomes what routing needs to know."""

from __future__ import annotations

import time

from registry_world import World, block_key, eventually

from baton.policy.failures import FailureMemory
from baton.policy.index import BlockIndex
from baton.policy.routing import choose
from baton.policy.workers import RouteRequest, RoutingConfig
from baton.registry.bookings import BookingBoard
from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys
from baton.registry.loads import Loads
from baton.registry.records import LoadRecord, WorkerRecord
from baton.registry.views import WorkerTables
from baton.request import Role


async def test_a_request_goes_where_its_blocks_are(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    watcher = await world.watcher()
    board = BookingBoard(redis_server.url, "g0", keys=keys)
    chain = [block_key(number) for number in range(64)]  # dearer to compute than two streams are
    await world.worker("d0")
    decode = await world.worker("d1")
    decode.store(*range(64))
    decode.announcer.publish_load({"num_running": 2, "num_waiting_tokens": 30})
    prefill = await world.worker("p0", role=Role.PREFILL)
    prefill.store(0, 1)
    await world.worker("k0", role=Role.KVSTORE)
    await eventually(lambda: len(watcher.workers) == 4 and "d1" in watcher.loads)
    await eventually(lambda: watcher.index.match(chain) == {"d1": 64, "p0": 2})
    board.book("d1", 7)

    tables = WorkerTables(watcher, board, RoutingConfig())
    table = tables.table("demo")
    views = {
        state.view.worker_id: state.view
        for role in (Role.DECODE, Role.PREFILL)
        for state in table.states(role)
    }
    request = RouteRequest(64 * 16 + 100, cached_blocks=watcher.index.match(chain))
    decision = choose(request, table, RoutingConfig(), 0.0)
    await board.stop()

    assert set(views) == {"d0", "d1", "p0"}
    assert views["d1"].num_sequences == 2  # its own word: more than what is booked
    assert views["d1"].num_pending_tokens == 7
    assert decision.decode_worker_id == "d1"
    assert decision.num_uncached_tokens == 100


async def test_bookings_count_at_once(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    watcher = await world.watcher()
    board = BookingBoard(redis_server.url, "g0", keys=keys)
    await world.worker("d0")
    await eventually(lambda: "d0" in watcher.workers)
    tables = WorkerTables(watcher, board, RoutingConfig())

    booking = board.book("d0", 50, 3)
    booked = tables.table("demo").state("d0")
    board.computed(booking)
    computed = tables.table("demo").state("d0")
    board.release(booking)
    released = tables.table("demo").state("d0")
    await board.stop()

    assert booked is not None
    assert (booked.view.num_sequences, booked.view.num_pending_tokens) == (3, 50)
    assert computed is not None
    assert (computed.view.num_sequences, computed.view.num_pending_tokens) == (3, 0)
    assert released is not None
    assert (released.view.num_sequences, released.view.num_pending_tokens) == (0, 0)


async def test_workers_of_other_models_and_unreachable_ones_are_told_apart(world: World) -> None:
    watcher = await world.watcher()
    await world.worker("d0")
    await eventually(lambda: "d0" in watcher.workers)
    tables = WorkerTables(watcher, BookingBoard("redis://127.0.0.1:1", "g0"), RoutingConfig())
    request = RouteRequest(10)

    assert len(tables.table("another")) == 0
    assert tables.table("demo").state("d0") is not None
    assert tables.table("demo", {"d0"}).state("d0") is None
    assert [r.reason for r in tables.table("demo", {"d0"}).rejected(request, Role.DECODE)] == [
        "is unreachable"
    ]


async def test_a_worker_that_leaves_leaves_the_table(world: World) -> None:
    watcher = await world.watcher()
    worker = await world.worker("d0")
    await eventually(lambda: "d0" in watcher.workers)
    tables = WorkerTables(watcher, BookingBoard("redis://127.0.0.1:1", "g0"), RoutingConfig())
    before = len(tables.table("demo"))

    await worker.announcer.stop()
    await eventually(lambda: "d0" not in watcher.workers)

    assert (before, len(tables.table("demo"))) == (1, 0)


class Directory:
    """Workers as the test says."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerRecord] = {}
        self.version = 0
        self.loads = Loads()
        self.index = BlockIndex()

    def up(self, worker_id: str) -> None:
        self.workers[worker_id] = WorkerRecord(worker_id, Role.DECODE, "host:1", "e", "demo")
        self.version += 1


def test_a_load_counts_at_once_and_one_that_says_the_same_changes_nothing() -> None:
    directory = Directory()
    tables = WorkerTables(directory, BookingBoard("redis://127.0.0.1:1", "g0"), RoutingConfig())
    directory.up("d0")
    directory.up("d1")

    idle = tables.table("demo").state("d1")
    directory.loads["d0"] = LoadRecord(num_running=3)
    busy = tables.table("demo").state("d0")
    version = directory.loads.version
    directory.loads["d0"] = LoadRecord(num_running=3)

    assert busy is not None
    assert busy.view.num_running == 3
    assert directory.loads.version == version
    assert tables.table("demo").state("d0") is busy
    assert tables.table("demo").state("d1") is idle


def test_a_failure_counts_at_once_and_that_of_a_worker_that_is_gone_is_forgotten() -> None:
    directory, failures = Directory(), FailureMemory()
    board = BookingBoard("redis://127.0.0.1:1", "g0")
    tables = WorkerTables(directory, board, RoutingConfig(), failures)
    directory.up("d0")
    tables.table("demo")

    failures.note("d0", time.monotonic())
    failed = tables.table("demo").state("d0")
    failures.expire(time.monotonic() + 3600.0)
    failures.note("gone", time.monotonic() - 3600.0)
    tables.table("demo")

    assert failed is not None
    assert failed.view.failure_ms > 0
    assert failures.is_empty
