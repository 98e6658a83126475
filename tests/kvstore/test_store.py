"""The store: budget, order of eviction, admission, quota, integrity."""

from __future__ import annotations

import pytest
from store_chains import (
    SIZE,
    ask,
    data_of,
    held,
    key_of,
    make_store,
    put,
    put_chain,
    read_chain,
)

from baton.errors import InvalidRequest
from services.kvstore.store import BlockStore, Offer


def test_a_block_is_read_back_in_its_namespace_only() -> None:
    store = make_store(10)
    put_chain(store, [1])

    block = store.peek(key_of(1), "ns")

    assert block is not None
    assert store.view(block) == data_of(1)
    assert store.peek(key_of(1), "other") is None
    assert store.peek(key_of(2), "ns") is None


def test_the_least_recently_used_chain_is_evicted_first() -> None:
    store = make_store(10)
    put_chain(store, range(0, 5))
    put_chain(store, range(10, 15))
    read_chain(store, range(0, 5))

    put_chain(store, range(20, 23))

    assert held(store, range(30)) == [0, 1, 2, 3, 4, 10, 11, 20, 21, 22]
    assert store.stats.num_evicted == 3


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_a_chain_goes_from_its_end_however_it_came(batch: int) -> None:
    store = make_store(10)
    put_chain(store, range(10), batch=batch)

    put_chain(store, [20, 21])

    assert held(store, range(30)) == [0, 1, 2, 3, 4, 5, 6, 7, 20, 21]


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_a_chain_longer_than_the_store_keeps_its_beginning(batch: int) -> None:
    store = make_store(10)

    results = put_chain(store, range(25), batch=batch)

    assert results == [True] * 10 + [False] * 15
    assert read_chain(store, range(25)) == list(range(10))
    assert store.stats.num_evicted == 0


def test_a_branching_block_outlives_its_branches() -> None:
    store = make_store(6)
    put_chain(store, [0, 1])
    put_chain(store, [2, 3], before=1)
    put_chain(store, [4, 5], before=1)

    put_chain(store, range(20, 24))

    assert held(store, range(30)) == [0, 1, 20, 21, 22, 23]


def test_a_look_up_counts_as_use() -> None:
    store = make_store(10)
    put_chain(store, range(0, 5))
    put_chain(store, range(10, 15))

    missing = store.find_missing([key_of(number) for number in (0, 1, 99, 2, 3, 4)])
    put_chain(store, range(20, 25))

    assert missing == [2]
    assert held(store, range(30)) == [0, 1, 2, 3, 4, 20, 21, 22, 23, 24]


def test_one_off_prompts_do_not_wash_out_what_is_asked_for_again() -> None:
    store = make_store(10)
    ask(store, range(6), times=2)
    put_chain(store, range(6))

    for first in range(100, 200, 10):
        ask(store, range(first, first + 10))
        put_chain(store, range(first, first + 10))

    assert read_chain(store, range(6)) == list(range(6))


def test_without_admission_they_do() -> None:
    store = make_store(10, has_admission=False)
    ask(store, range(6), times=2)
    put_chain(store, range(6))

    put_chain(store, range(100, 110))

    assert held(store, range(6)) == []


def test_a_block_asked_for_now_comes_in_whatever_is_in_demand() -> None:
    store = make_store(10)
    ask(store, range(10), times=5)
    put_chain(store, range(10))
    rank = (store.new_use(), 0)

    plain = store.reserve(Offer(key_of(50), "ns", SIZE, rank))
    wanted = store.reserve(Offer(key_of(51), "ns", SIZE, rank, is_wanted=True))

    assert plain is None
    assert wanted is not None
    assert store.stats.num_unwanted == 1


def test_a_tenant_over_its_share_gives_up_its_own_blocks() -> None:
    store = make_store(12)
    put_chain(store, range(0, 3), tenant="small")
    put_chain(store, range(100, 109), tenant="big")

    put_chain(store, range(200, 206), tenant="big")

    assert held(store, range(10)) == [0, 1, 2]
    assert store.tenant_bytes("big") == 9 * SIZE


def test_a_tenant_below_its_share_takes_from_the_one_above() -> None:
    store = make_store(12, weights={"gold": 2.0})
    put_chain(store, range(100, 112), tenant="big")

    put_chain(store, range(0, 20), tenant="gold")

    assert store.tenant_bytes("gold") == 8 * SIZE
    assert held(store, range(100, 112)) == [100, 101, 102, 103]


def test_pinned_blocks_stay_and_leave_when_unpinned() -> None:
    store = make_store(4)
    put_chain(store, range(4))
    blocks = [store.peek(key_of(number), "ns") for number in range(4)]
    for number in range(4):
        store.pin(key_of(number))

    refused = put_chain(store, [10])
    for block in blocks:
        assert block is not None
        store.unpin(block)
    taken = put_chain(store, [10])

    assert (refused, taken) == ([False], [True])
    assert held(store, range(4)) == [0, 1, 2]


def test_a_corrupt_block_that_is_pinned_is_found_no_more_but_not_reused() -> None:
    store = make_store(2)
    put_chain(store, [1, 2])
    block = store.peek(key_of(1), "ns")
    assert block is not None
    store.pin(key_of(1))
    store.view(block)[7] ^= 1

    assert not store.verify(key_of(1))
    assert key_of(1) not in store
    put_chain(store, [3, 4])
    assert held(store, range(9)) == [3]
    store.unpin(block)
    put_chain(store, [5], before=3)
    assert held(store, range(9)) == [3, 5]


def test_uploads_in_flight_count_against_the_budget() -> None:
    store = make_store(2)
    use = store.new_use()

    rooms = [store.reserve(Offer(key_of(at), "ns", SIZE, (use, 0))) for at in range(3)]

    assert [room is not None for room in rooms] == [True, True, False]
    assert store.used_bytes == 2 * SIZE
    for room in rooms[:2]:
        assert room is not None
        store.abandon(room)
    assert store.used_bytes == 0


def test_a_block_that_came_in_meanwhile_is_kept_once() -> None:
    store = make_store(10)
    use = store.new_use()
    rooms = [store.reserve(Offer(key_of(1), "ns", SIZE, (use, 0))) for _ in range(2)]

    results = [store.commit(room, 1) is not None for room in rooms if room is not None]

    assert results == [True, False]
    assert (store.used_bytes, len(store)) == (SIZE, 1)


def test_a_corrupt_block_is_dropped_and_counted_at_reading() -> None:
    store = make_store(10)
    put_chain(store, [1])
    block = store.peek(key_of(1), "ns")
    assert block is not None

    store.view(block)[50] ^= 1

    assert not store.verify(key_of(1))
    assert key_of(1) not in store
    assert store.stats.num_corrupt == 1
    assert store.used_bytes == 0


def test_blocks_of_a_namespace_have_one_size_until_the_last_is_gone() -> None:
    store = make_store(4)
    put_chain(store, [1], "a")

    with pytest.raises(InvalidRequest, match=r"size_bytes is 90; .* have 128 bytes") as refusal:
        store.reserve(Offer(key_of(5), "a", 90, (store.new_use(), 0)))
    put_chain(store, [2, 3, 4, 5], "b")
    assert refusal.value.field == "size_bytes"
    assert held(store, range(9)) == [2, 3, 4, 5]
    assert store.reserve(Offer(key_of(6), "a", 64, (store.new_use(), 0)))


def test_sizes_take_each_others_room_slab_by_slab() -> None:
    memory = memoryview(bytearray(64 * 4096))
    store = BlockStore(memory)
    for number in range(64):
        assert put(store, Offer(key_of(number), "small", 4096, (number, 0)), bytes(4096))

    big = store.reserve(Offer(key_of(99), "big", 16384, (1000, 0)))

    assert big is not None
    assert len(store) <= 60
