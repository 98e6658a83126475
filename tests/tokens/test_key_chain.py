"""A chain that makes its keys when asked names the same blocks as one made at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.blocks import KeyChain, chain_keys

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
