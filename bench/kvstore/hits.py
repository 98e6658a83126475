"""Hit rate against capacity, and what placement and the time of offering cost, on traces."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from baton.blocks import BlockKey
from baton.policy.rendezvous import choose, group_keys, node_seed
from bench.failure import BenchFailed
from bench.options import Run
from bench.report import Table
from services.kvstore.store import BlockStore, Offer, StoredBlock, StorePlan

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
GROUPS = (1, 8, 32, 128, 1 << 30)
NUM_NODES = 4
_SLOT = 64
"""Bytes of a block here: the policies are the real ones, the bytes do not matter."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests as chains of block keys."""

    name: str
    chains: tuple[tuple[BlockKey, ...], ...]

    @property
    def num_distinct(self) -> int:
        """Different blocks: what an infinite cache would hold in the end."""
        return len({key for chain in self.chains for key in chain})


def read_trace(path: Path, most: int) -> Trace:
    """A trace of JSON lines with `hash_ids`. Raises `BenchFailed`."""
    chains = []
    try:
        for line in path.read_text().splitlines()[:most]:
            chains.append(tuple(_key(number) for number in json.loads(line)["hash_ids"]))
    except (OSError, ValueError, KeyError) as error:
        raise BenchFailed(f"{path} is no trace with hash_ids: {error!r}") from error
    return Trace(path.stem, tuple(chains))


def _key(number: int) -> BlockKey:
    return BlockKey(hashlib.blake2b(number.to_bytes(8, "big"), digest_size=16).digest())


class Cache:
    """A store of so many blocks, used as readers and writers use one; counts what it does."""

    def __init__(
        self, num_blocks: int, *, has_admission: bool, next_tier: Cache | None = None
    ) -> None:
        memory = memoryview(bytearray(_SLOT * max(1, num_blocks)))
        self.num_written = 0
        self._next_tier = next_tier
        self.store = BlockStore(memory, self, StorePlan(has_admission=has_admission))

    def run(self, chain: Sequence[BlockKey]) -> int:
        """Blocks of the leading run that are held."""
        use = self.store.new_use()
        for key in chain:
            self.store.sketch.add(key)
        for index, key in enumerate(chain):
            if not self.store.touch(key, use, index):
                return index
        return len(chain)

    def offer(self, chain: Sequence[BlockKey], first: int = 0) -> None:
        """Stores the blocks from `first` on that are not held."""
        use = self.store.new_use()
        for index in range(first, len(chain)):
            parent = chain[index - 1] if index else None
            self.offer_one(chain[index], parent, (use, -index))

    def offer_one(self, key: BlockKey, parent: BlockKey | None, rank: tuple[int, int]) -> None:
        """Stores a block that is not held."""
        if key in self.store:
            return
        room = self.store.reserve(Offer(key, "trace", _SLOT, rank, parent))
        if room is not None:
            self.store.commit(room, 0)
            self.num_written += 1

    def note_stored(self, key: BlockKey, block: StoredBlock) -> None:
        """See `Observer`."""

    def note_removed(self, key: BlockKey) -> None:
        """See `Observer`."""

    def note_evicted(self, key: BlockKey, block: StoredBlock) -> None:
        """See `Observer`."""
        if self._next_tier is not None:
            rank = (self._next_tier.store.new_use(), 0)
            self._next_tier.offer_one(key, block.offer.parent, rank)

    def holds_elsewhere(self, key: BlockKey) -> bool:
        """See `Observer`: children come before their parents when they are evicted."""
        return True


def count_hits(trace: Trace, num_blocks: int, *, has_admission: bool) -> int:
    """Blocks found, when each request stores what it did not find."""
    cache = Cache(num_blocks, has_admission=has_admission)
    hits = 0
    for chain in trace.chains:
        found = cache.run(chain)
        hits += found
        cache.offer(chain, found)
    return hits


def measure_hits(run: Run, traces: Sequence[Trace]) -> list[Table]:
    """All tables on all traces."""
    run.steps.begin("hits", 3 * len(traces))
    tables = []
    for trace in traces:
        run.steps.next(f"{trace.name}: capacity")
        tables.append(_by_capacity(run, trace))
        run.steps.next(f"{trace.name}: offering")
        tables.append(_by_offering(trace))
        run.steps.next(f"{trace.name}: placement")
        tables.append(_by_group(trace))
    return tables


def _by_capacity(run: Run, trace: Trace) -> Table:
    distinct, total = trace.num_distinct, sum(map(len, trace.chains))
    infinite = count_hits(trace, distinct + 4096, has_admission=False)
    rows: list[tuple[float | int, ...]] = []
    for fraction in FRACTIONS[:: run.size(1, 3)]:
        capacity = int(distinct * fraction)
        lru = count_hits(trace, capacity, has_admission=False)
        ours = count_hits(trace, capacity, has_admission=True)
        rows.append((fraction, capacity, lru / infinite, ours / infinite, ours / total))
    return Table(
        f"{trace.name}: hits against capacity",
        (
            "of distinct blocks",
            "blocks",
            "leaf-first LRU, of infinite",
            "with admission, of infinite",
            "with admission, hit rate",
        ),
        tuple(rows),
        (
            f"{len(trace.chains):,} requests, {total:,} blocks, {distinct:,} distinct; an infinite "
            f"cache finds {infinite / total:.3f} of all.",
        ),
    )


def _by_offering(trace: Trace) -> Table:
    distinct = trace.num_distinct
    rows: list[tuple[str | int | float | None, ...]] = []
    for device_share, store_share in ((0.05, 0.2), (0.1, 0.4)):
        for is_through in (True, False):
            store = Cache(int(distinct * store_share), has_admission=True)
            device = Cache(
                int(distinct * device_share),
                has_admission=False,
                next_tier=None if is_through else store,
            )
            hits = 0
            for chain in trace.chains:
                on_device = device.run(chain)
                found = max(on_device, store.run(chain) if on_device < len(chain) else 0)
                hits += found
                device.offer(chain, on_device)
                if is_through:
                    store.offer(chain, found)
            name = "when computed" if is_through else "when evicted"
            rows.append((name, device_share, store_share, hits, store.num_written))
    return Table(
        f"{trace.name}: blocks offered when computed or when evicted",
        ("offered", "device, of distinct", "store, of distinct", "blocks found", "blocks written"),
        tuple(rows),
        ("One device; eviction is given for free here, in an engine it would hold up a step.",),
    )


def _by_group(trace: Trace) -> Table:
    seeds = [node_seed(f"kvstore-{node}:8503") for node in range(NUM_NODES)]
    rows: list[tuple[str | int | float | None, ...]] = []
    for size in GROUPS:
        held: Counter[int] = Counter()
        places: dict[BlockKey, int] = {}
        asked = lost = kept = 0
        for chain in trace.chains:
            groups = group_keys(chain, size)
            nodes = [places.setdefault(group, choose(group, seeds)) for group in groups]
            asked += len(set(nodes))
            kept += next((at for at, node in enumerate(nodes) if node == 0), len(nodes))
            lost += len(nodes)
        owner: dict[BlockKey, int] = {}
        for chain in trace.chains:
            for key, group in zip(chain, group_keys(chain, size), strict=True):
                owner.setdefault(key, places[group])
        held.update(owner.values())
        shown = "whole chain" if size == GROUPS[-1] else size
        fullest = max(held.values()) * NUM_NODES / sum(held.values())
        rows.append((str(shown), asked / len(trace.chains), fullest, kept / lost))
    return Table(
        f"{trace.name}: {NUM_NODES} stores, blocks placed by groups",
        (
            "blocks in a group",
            "stores asked a request",
            "fullest over mean",
            "left when one is lost",
        ),
        tuple(rows),
        ("Left: blocks of all requests before the first that the lost store kept.",),
    )
