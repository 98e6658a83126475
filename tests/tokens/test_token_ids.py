"""Packed token ids behave as the sequence that they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.tokens import TokenIds

ids = st.lists(st.integers(0, 2**32 - 1), max_size=40)


@given(ids, ids)
def test_what_goes_in_comes_out(first, second):
    packed = TokenIds.of(first)

    assert list(packed) == first
    assert packed == first
    assert len(packed) == len(first)
    assert packed.highest == max(first, default=-1)
    assert TokenIds(packed.packed) == packed
    assert packed.followed_by(second) == [*first, *second]


@given(ids, st.slices(40))
def test_slices_are_those_of_a_list(numbers, part):
    assert TokenIds.of(numbers)[part] == numbers[part]


def test_what_is_packed_already_is_not_packed_again():
    packed = TokenIds.of([1, 2])

    assert TokenIds.of(packed) is packed
    assert packed.followed_by(()) is packed


@pytest.mark.parametrize("number", [-1, 2**32])
def test_what_uint32_cannot_hold_is_refused(number):
    with pytest.raises(OverflowError):
        TokenIds.of([number])


def test_half_an_id_is_refused():
    with pytest.raises(ValueError, match="5 bytes"):
        TokenIds(b"12345")
