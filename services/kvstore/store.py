"""The DRAM tier: a byte-budgeted, content-addressed store of blocks. One event loop owns it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NewType, Protocol

from baton.blocks import BlockKey, checksum
from baton.errors import InvalidRequest
from baton.policy.eviction import LeafQueue, Rank
from baton.policy.quota import Quotas
from baton.policy.sketch import FrequencySketch
from services.kvstore.arena import Arena

Use = NewType("Use", int)
"""One call's use of the store; later calls have higher numbers."""

MAX_CHANCES = 8
"""So many blocks in more demand stand up for each other before a newcomer is refused."""
USES_PER_BLOCK = 4
"""Uses counted for each block held before the counts halve; see docs/kvstore.md."""
MIN_PERIOD = 4096


# Neither is frozen, that takes three times as long to make. Nobody changes one but `commit`.
@dataclass(slots=True)
class Offer:
    """A block that wants to be stored."""

    key: BlockKey
    namespace: str
    size_bytes: int
    rank: Rank
    parent: BlockKey | None = None
    tenant: str = ""
    is_wanted: bool = False
    """Somebody asks for it now: it comes in whatever else is in demand."""


@dataclass(slots=True, eq=False)
class StoredBlock:
    """A block as it is held: where, and what is known of it."""

    offer: Offer
    offset: int
    checksum: int = 0


@dataclass(slots=True)
class StoreStats:
    """Counts since the start."""

    num_hits: int = 0
    num_misses: int = 0
    num_evicted: int = 0
    num_unwanted: int = 0
    """Blocks refused because those held are used more often."""
    num_corrupt: int = 0
    """Blocks whose bytes no longer matched their checksum."""


@dataclass(slots=True)
class _Namespace:
    """Blocks of one namespace have one size; it is forgotten with the last of them."""

    block_bytes: int
    num_users: int = 0


class Observer(Protocol):
    """Who wants to know what the store holds. Called at once; must not raise."""

    def note_stored(self, key: BlockKey, block: StoredBlock) -> None:
        """A block has come in."""

    def note_evicted(self, key: BlockKey, block: StoredBlock) -> None:
        """A block makes room; its bytes are still in place."""

    def note_removed(self, key: BlockKey) -> None:
        """A block is gone."""

    def holds_elsewhere(self, key: BlockKey) -> bool:
        """Whether another tier has a block that this one lacks."""


@dataclass(frozen=True, slots=True)
class StorePlan:
    """How a store decides."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Of tenants; 1 for the others."""
    has_admission: bool = True
    """Whether blocks that are used less than those they would replace are refused."""
    back: Callable[[int, int], bool] | None = None
    """Sees to it that a range of the memory is there before it is written; see `Arena`."""


class BlockStore:
    """Holds blocks by key in `memory`, uploads in flight included.

    A block is taken in by `reserve`, then `commit` or `abandon`. Room is made by the least recently
    used leaf of a tenant that must give (`Quotas`), pinned ones excepted.
    """

    def __init__(
        self, memory: memoryview, observer: Observer | None = None, plan: StorePlan | None = None
    ) -> None:
        plan = plan or StorePlan()
        self.memory = memory
        self.capacity_bytes = len(memory)
        self.stats = StoreStats()
        self.sketch = FrequencySketch()
        self._observer = observer
        self._has_admission = plan.has_admission
        self._arena = Arena(len(memory), plan.back)
        self._quotas = Quotas(len(memory), plan.weights)
        self._queue = LeafQueue()
        self._blocks: dict[BlockKey, StoredBlock] = {}
        self._namespaces: dict[str, _Namespace] = {}
        self._lingering: dict[int, int] = {}
        """Pins of blocks that were dropped while pinned, by offset."""
        self._held_bytes = 0
        self._reserved_bytes = 0
        self._uses = count(1)

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._blocks

    @property
    def held_bytes(self) -> int:
        """Bytes of blocks held."""
        return self._held_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of blocks held and of those being uploaded; never above the capacity."""
        return self._held_bytes + self._reserved_bytes

    def tenant_bytes(self, tenant: str) -> int:
        """Bytes that count against a tenant's quota, uploads included."""
        return self._quotas.used(tenant)

    def new_use(self) -> Use:
        """A use more recent than all before."""
        return Use(next(self._uses))

    def find_missing(self, keys: Sequence[BlockKey]) -> list[int]:
        """Indexes of the keys that are not held. Those that are have been used."""
        use = self.new_use()
        return [index for index, key in enumerate(keys) if not self.touch(key, use, index)]

    def touch(self, key: BlockKey, use: Use, index: int) -> bool:
        """Marks the block as used, `index`-th in its call; says whether it is held."""
        if key not in self._blocks:
            return False
        self._queue.touch(key, (use, -index))
        return True

    def peek(self, key: BlockKey, namespace: str) -> StoredBlock | None:
        """The block if it is held in this namespace."""
        block = self._blocks.get(key)
        return block if block is not None and block.offer.namespace == namespace else None

    def held(self, key: BlockKey) -> StoredBlock | None:
        """The block if it is held, in whatever namespace."""
        return self._blocks.get(key)

    def keys(self) -> Iterable[BlockKey]:
        """Of all blocks held, in no order."""
        return self._blocks.keys()

    def newest_first(self) -> list[BlockKey]:
        """The keys held, the most recently used first."""
        return self._queue.newest_first()

    def view(self, block: StoredBlock) -> memoryview:
        """The block's bytes in place; they stay while it is held."""
        return self.memory[block.offset : block.offset + block.offer.size_bytes]

    def verify(self, key: BlockKey) -> bool:
        """Whether a held block still matches its checksum; one that doesn't is dropped."""
        block = self._blocks.get(key)
        if block is None:
            return False
        if checksum(self.view(block)) == block.checksum:
            return True
        self.stats.num_corrupt += 1
        self._forget(key)
        return False

    def pin(self, key: BlockKey) -> None:
        """Keeps a held block where it is until it is unpinned as often."""
        self._queue.pin(key)

    def unpin(self, block: StoredBlock) -> None:
        """Takes a pin back; also of a block that was dropped as corrupt meanwhile."""
        if self._blocks.get(block.offer.key) is block:
            self._queue.unpin(block.offer.key)
            return
        self._lingering[block.offset] -= 1
        if not self._lingering[block.offset]:
            del self._lingering[block.offset]
            self._give_back(block)

    def reserve(self, offer: Offer) -> StoredBlock | None:
        """Room for a block that is about to come, its bytes for the caller to fill.

        None: there is no room, or those held are used more often. Raises InvalidRequest if the
        namespace's blocks have another size.
        """
        known = self._namespaces.get(offer.namespace)
        if known is None:
            if not self._arena.fits(offer.size_bytes):
                return None
        elif known.block_bytes != offer.size_bytes:
            raise _wrong_size(offer, known.block_bytes)
        while (offset := self._arena.allocate(offer.size_bytes)) is None:
            if not self._evict_for(offer):
                return None
        # Looked up now: evictions may have ended the namespace.
        known = self._namespaces.get(offer.namespace)
        if known is None:
            known = self._namespaces[offer.namespace] = _Namespace(offer.size_bytes)
        known.num_users += 1
        self._reserved_bytes += offer.size_bytes
        self._quotas.charge(offer.tenant, offer.size_bytes)
        return StoredBlock(offer, offset)

    def commit(self, reserved: StoredBlock, total: int) -> StoredBlock | None:
        """Keeps a block whose bytes are in place; None: it has come in by another way meanwhile."""
        offer = reserved.offer
        if offer.key in self._blocks:
            self.abandon(reserved)
            return None
        self._reserved_bytes -= offer.size_bytes
        self._held_bytes += offer.size_bytes
        reserved.checksum = total
        block = self._blocks[offer.key] = reserved
        self._queue.add(offer.key, offer.parent, offer.tenant, offer.rank)
        self.sketch.period = max(MIN_PERIOD, USES_PER_BLOCK * len(self._blocks))
        if self._observer is not None:
            self._observer.note_stored(offer.key, block)
        return block

    def abandon(self, reserved: StoredBlock) -> None:
        """Gives reserved room back."""
        self._reserved_bytes -= reserved.offer.size_bytes
        self._give_back(reserved)

    def _evict_for(self, offer: Offer) -> bool:
        """Evicts a block for one that wants room, if there is one that must give way to it."""
        if not (offer.is_wanted or self._is_reachable(offer)):
            return False
        for tenant in self._quotas.givers(offer.tenant, offer.size_bytes):
            for _ in range(MAX_CHANCES):
                key = self._queue.victim(tenant, protected=offer.parent)
                if key is None:
                    break
                if self._is_unwanted(offer, key):
                    # It has earned another round; the next in line may be less in demand.
                    self._queue.touch(key, (offer.rank[0], -len(self._blocks)))
                    continue
                if self._observer is not None:
                    self._observer.note_evicted(key, self._blocks[key])
                self._forget(key)
                self.stats.num_evicted += 1
                return True
            else:
                self.stats.num_unwanted += 1
                return False
        return False

    def _is_reachable(self, offer: Offer) -> bool:
        """Whether a reader could come to this block: without its parent a chain is cut before it.

        So a chain that does not fit ends where room does, and does not eat its own tail.
        """
        parent = offer.parent
        if parent is None or parent in self._blocks:
            return True
        return self._observer is not None and self._observer.holds_elsewhere(parent)

    def _is_unwanted(self, offer: Offer, victim: BlockKey) -> bool:
        """Whether the victim is used more often; of equals the newer one is kept."""
        if offer.is_wanted or not self._has_admission:
            return False
        return self.sketch.estimate(victim) > max(1, self.sketch.estimate(offer.key))

    def _forget(self, key: BlockKey) -> None:
        block = self._blocks.pop(key)
        num_pins = self._queue.num_pins(key)
        self._queue.remove(key)
        self._held_bytes -= block.offer.size_bytes
        if num_pins:
            # A corrupt block that somebody still reads: found by nobody any more, but not reused.
            self._lingering[block.offset] = num_pins
        else:
            self._give_back(block)
        if self._observer is not None:
            self._observer.note_removed(key)

    def _give_back(self, block: StoredBlock) -> None:
        offer = block.offer
        self._arena.free(block.offset, offer.size_bytes)
        self._quotas.refund(offer.tenant, offer.size_bytes)
        known = self._namespaces[offer.namespace]
        known.num_users -= 1
        if not known.num_users:
            del self._namespaces[offer.namespace]


def _wrong_size(offer: Offer, block_bytes: int) -> InvalidRequest:
    return InvalidRequest(
        f"size_bytes is {offer.size_bytes}; blocks of namespace {offer.namespace!r} "
        f"have {block_bytes} bytes",
        field="size_bytes",
    )
