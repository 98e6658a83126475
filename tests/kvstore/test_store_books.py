"""The store under any order of calls."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from store_chains import SIZE, ask, data_of, key_of, make_store, put_chain, read_chain

from baton.blocks import BlockKey, checksum
from services.kvstore.store import Offer, StoredBlock


class Recorder:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.held: dict[BlockKey, int] = {}

    def note_stored(self, key: BlockKey, block: StoredBlock) -> None:
        assert key not in self.held
        self.held[key] = block.offer.size_bytes

    def note_evicted(self, key: BlockKey, block: StoredBlock) -> None:
        assert key in self.held

    def note_removed(self, key: BlockKey) -> None:
        del self.held[key]

    def holds_elsewhere(self, key: BlockKey) -> bool:
        return False


NUMBERS = st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True)


class StoreMachine(RuleBasedStateMachine):
    """Any order of calls keeps the books right and gives back what was put in, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = Recorder()
        self.store = make_store(10, self.recorder)
        self.rooms: list[StoredBlock] = []
        self.pinned: list[StoredBlock] = []

    @rule(numbers=NUMBERS, tenant=st.sampled_from(["", "a", "b"]))
    def put(self, numbers: list[int], tenant: str) -> None:
        put_chain(self.store, numbers, tenant=tenant)

    @rule(numbers=NUMBERS)
    def read(self, numbers: list[int]) -> None:
        ask(self.store, numbers)
        for number in read_chain(self.store, numbers):
            block = self.store.peek(key_of(number), "ns")
            assert block is not None
            assert self.store.view(block) == data_of(number)

    @rule(numbers=NUMBERS)
    def find(self, numbers: list[int]) -> None:
        missing = self.store.find_missing([key_of(number) for number in numbers])
        expected = [at for at, number in enumerate(numbers) if key_of(number) not in self.store]
        assert missing == expected

    @rule(number=st.integers(0, 40))
    def pin(self, number: int) -> None:
        block = self.store.peek(key_of(number), "ns")
        if block is not None:
            self.store.pin(key_of(number))
            self.pinned.append(block)

    @rule()
    def unpin(self) -> None:
        if self.pinned:
            self.store.unpin(self.pinned.pop())

    @rule(number=st.integers(100, 200))
    def begin_upload(self, number: int) -> None:
        offer = Offer(key_of(number), "ns", SIZE, (self.store.new_use(), 0))
        room = self.store.reserve(offer)
        if room is not None:
            self.store.view(room)[:] = bytes(SIZE)
            self.rooms.append(room)

    @rule()
    def give_up_upload(self) -> None:
        if self.rooms:
            self.store.abandon(self.rooms.pop())

    @invariant()
    def books_are_right(self) -> None:
        held_bytes = SIZE * len(self.store)
        assert self.store.used_bytes <= self.store.capacity_bytes
        assert self.store.held_bytes == held_bytes == sum(self.recorder.held.values())
        assert self.store.used_bytes == held_bytes + SIZE * len(self.rooms)

    @invariant()
    def pinned_blocks_are_there_and_unchanged(self) -> None:
        for block in self.pinned:
            assert self.store.peek(block.offer.key, "ns") is block
            assert checksum(self.store.view(block)) == block.checksum


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
