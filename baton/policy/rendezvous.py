"""Which of several stores keeps a block: the one whose hash with the block's group is greatest.

When a store comes or goes, only the groups that were its own change their place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import xxhash

from baton.blocks import BlockKey

GROUP_BLOCKS = 128
"""Blocks of a chain that lie together, named by the first of them: 2,048 tokens in blocks of 16."""


def node_seed(address: str) -> int:
    """What gives a store its own order of groups."""
    return xxhash.xxh3_64_intdigest(address.encode())


def choose(group: BlockKey, seeds: Sequence[int]) -> int:
    """Index of the store that keeps a group."""
    return max(range(len(seeds)), key=lambda at: xxhash.xxh3_64_intdigest(group, seeds[at]))


def group_keys(keys: Sequence[BlockKey], group_blocks: int = GROUP_BLOCKS) -> list[BlockKey]:
    """The group of each block of a chain, given from its first block on."""
    return [keys[at - at % group_blocks] for at in range(len(keys))]


def are_places_known(addresses: Collection[str], spelled: Iterable[frozenset[str]]) -> bool:
    """Whether stores at these addresses have the groups that hashing the addresses gives them.

    `spelled`: the stores that each worker uses, by the addresses that it hashes. All workers must
    agree, and spell a living store as it does itself; those that don't live are missing for both.
    """
    lists = set(spelled)
    return len(lists) == 1 and lists.pop().issuperset(addresses)
