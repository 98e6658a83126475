"""A chain that makes its keys when asked names the same blocks as one made at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton import blocks
from baton.blocks import KeyChain, chain_keys, root_key

ROOT = bytes(range(32))


class Watched(list[int]):
    """Token ids that remember how far they were read."""

    num_read = 0

    def __getitem__(self, index: object) -> object:  # type: ignore[override]
        assert isinstance(index, slice)
        self.num_read = max(self.num_read, index.stop)
        return super().__getitem__(index)


@given(
    num_tokens=st.integers(0, 700),
    size=st.integers(1, 4),
    asked=st.lists(st.tuples(st.integers(-200, 200), st.integers(-200, 200)), max_size=5),
)
def test_any_part_is_that_of_the_whole_chain(
    num_tokens: int, size: int, asked: Sequence[tuple[int, int]]
) -> None:
    whole = chain_keys(ROOT, range(num_tokens), size)
    chain = KeyChain(ROOT, range(num_tokens), size)

    assert len(chain) == len(whole)
    for start, stop in asked:
        assert chain[start:stop] == whole[start:stop]
        if -len(whole) <= start < len(whole):
            assert chain[start] == whole[start]
        else:
            with pytest.raises(IndexError):
                chain[start]
    assert list(chain) == whole


def test_what_is_not_asked_for_is_not_made() -> None:
    tokens = Watched(range(16_384))
    chain = KeyChain(ROOT, tokens, 16)

    chain[:1]

    assert 16 <= tokens.num_read <= 1024


@given(
    prompts=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 60), st.sampled_from("ab")),
        min_size=1,
        max_size=6,
    ),
    asked=st.lists(st.integers(0, 120), max_size=3),
)
def test_what_other_prompts_began_with_changes_no_key(
    prompts: Sequence[tuple[int, int, str]], asked: Sequence[int]
) -> None:
    for num_shared, num_own, salt in prompts:
        root = root_key("namespace", salt)
        tokens = [1, 2] * num_shared + [num_own] * (2 * num_own)
        chain = KeyChain(root, tokens, 2)
        whole = chain_keys(root, tokens, 2)

        for stop in asked:
            assert chain[:stop] == whole[:stop]
        assert list(chain) == whole


def test_a_prefix_that_came_before_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []

    def blake2b(**options: Any) -> Any:
        hashed.append(options["key"])
        return hashlib.blake2b(**options)

    monkeypatch.setattr(blocks, "hashlib", SimpleNamespace(blake2b=blake2b))
    root = b"r" * 32
    first = KeyChain(root, range(1000), 4)[:]
    num_first = len(hashed)
    again = KeyChain(root, [*range(512), *range(512)], 4)[:]

    # 250 blocks are 15 spans and a rest; of 256 blocks 8 spans are shared and 8 are not.
    assert num_first == 15 + 1
    assert len(hashed) - num_first == 8
    assert again[:128] == first[:128]
