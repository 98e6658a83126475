"""What the registry knows becomes what routing needs to know."""

from __future__ import annotations

from registry_world import World, block_key, eventually

from baton.policy.routing import RouteRequest, RoutingConfig, choose
from baton.registry.bookings import BookingBoard
from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys
from baton.registry.views import view_workers
from baton.request import Role


async def test_a_request_goes_where_its_blocks_are(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    watcher = await world.watcher()
    board = BookingBoard(redis_server.url, "g0", keys=keys)
    chain = [block_key(number) for number in range(8)]
    await world.worker("d0")
    decode = await world.worker("d1")
    decode.store(*range(8))
    decode.announcer.publish_load({"num_running": 2, "num_waiting_tokens": 30})
    prefill = await world.worker("p0", role=Role.PREFILL)
    prefill.store(0, 1)
    await world.worker("k0", role=Role.KVSTORE)
    await eventually(lambda: len(watcher.workers) == 4 and "d1" in watcher.loads)
    await eventually(lambda: watcher.index.match(chain) == {"d1": 8, "p0": 2})
    board.book("d1", 7)

    views = {view.worker_id: view for view in view_workers(watcher, "demo", chain, board)}
    decision = choose(RouteRequest(8 * 16 + 100), list(views.values()), RoutingConfig(), 0.0)
    await board.stop()

    assert set(views) == {"d0", "d1", "p0"}
    assert views["d1"].num_sequences == 3
    assert views["d1"].num_pending_tokens == 37
    assert decision.decode.worker_id == "d1"
    assert decision.prefill.worker_id == "p0"
    assert decision.num_uncached_tokens == 100


async def test_workers_of_other_models_and_unreachable_ones_are_told_apart(world: World) -> None:
    watcher = await world.watcher()
    await world.worker("d0")
    await eventually(lambda: "d0" in watcher.workers)

    assert view_workers(watcher, "another", []) == []
    assert [v.is_reachable for v in view_workers(watcher, "demo", [])] == [True]
    assert [v.is_reachable for v in view_workers(watcher, "demo", [], unreachable={"d0"})] == [
        False
    ]
