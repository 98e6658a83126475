"""Block records say which kvstore holds a block."""

from __future__ import annotations

from redis.asyncio import Redis
from registry_world import World, block_key, eventually

from baton.registry.blockrecords import MAX_PIPELINE_RECORDS, BlockRecordBuffer, find_block_records
from baton.registry.client import close, connect
from baton.registry.embedded import EmbeddedRedis
from baton.registry.keys import Keys
from baton.registry.records import BlockRecord
from baton.request import Role


def record(number: int, node: str = "k0") -> BlockRecord:
    """A block in memory."""
    return BlockRecord(block_key(number), node, "dram", 4096, number * 7)


async def test_stored_blocks_are_found_and_evicted_ones_are_not(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = connect(redis_server.url, world.timing)
    node = await world.worker("k0", role=Role.KVSTORE)
    node.announcer.publish_block_records([record(1), record(2), record(3)])
    node.announcer.publish_block_records([], [block_key(2)])
    await eventually(lambda: not len(node.announcer._blocks))

    wanted = [block_key(number) for number in (1, 2, 3, 4)]
    found = await find_block_records(client, keys, wanted)
    await close(client)

    assert found == [record(1), None, record(3), None]


async def test_many_records_pass_in_portions(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = connect(redis_server.url, world.timing)
    node = await world.worker("k0", role=Role.KVSTORE)

    records = [record(number) for number in range(3 * MAX_PIPELINE_RECORDS + 1)]
    node.announcer.publish_block_records(records)
    await eventually(lambda: not len(node.announcer._blocks))
    found = await find_block_records(client, keys, [entry.key for entry in records])
    await close(client)

    assert found == records


async def test_records_live_for_a_while_only(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = Redis.from_url(redis_server.url, protocol=2)
    node = await world.worker("k0", role=Role.KVSTORE)
    node.announcer.publish_block_records([record(1)])
    await eventually(lambda: not len(node.announcer._blocks))

    life_ms = await client.pttl(keys.block(block_key(1)))
    await client.aclose()

    assert 0 < life_ms <= world.timing.block_record_ttl_s * 1000


async def test_a_node_removes_only_its_own_word(
    world: World, redis_server: EmbeddedRedis, keys: Keys
) -> None:
    client = connect(redis_server.url, world.timing)
    first = await world.worker("k0", role=Role.KVSTORE)
    second = await world.worker("k1", role=Role.KVSTORE)
    first.announcer.publish_block_records([record(1, "k0")])
    await eventually(lambda: not len(first.announcer._blocks))
    second.announcer.publish_block_records([record(1, "k1")])
    await eventually(lambda: not len(second.announcer._blocks))

    first.announcer.publish_block_records([], [block_key(1)])
    await eventually(lambda: not len(first.announcer._blocks))
    found = await find_block_records(client, keys, [block_key(1)])
    await close(client)

    assert found == [record(1, "k1")]


def test_the_newest_word_about_a_block_wins_even_while_it_is_sent() -> None:
    buffer = BlockRecordBuffer()
    buffer.put([record(1)], [])
    in_flight = buffer.peek()

    buffer.put([], [block_key(1)])
    buffer.sent(in_flight)

    assert buffer.peek().changes == {block_key(1): None}


def test_a_full_buffer_drops_the_oldest() -> None:
    buffer = BlockRecordBuffer(limit=2)

    buffer.put([record(1), record(2), record(3)], [])

    assert list(buffer.peek().changes) == [block_key(2), block_key(3)]
    assert buffer.num_lost == 1
