"""Events are numbered, bounded and batched without losing their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_world import block_key

from baton.blocks import split_keys
from baton.engine.types import BlockEvent, BlockEventKind
from baton.registry.events import EventBatch, EventBuffer


def stored(*numbers: int) -> list[BlockEvent]:
    """Events of stored blocks."""
    return [BlockEvent(BlockEventKind.STORED, [block_key(number) for number in numbers])]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 9)),
        st.tuples(st.just("send"), st.integers(1, 3)),
        st.tuples(st.just("drop"), st.just(0)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 12))
def test_what_is_sent_is_in_order_and_gaps_are_exactly_what_was_lost(
    steps: list[tuple[str, int]], limit: int
) -> None:
    buffer = EventBuffer("e1", limit)
    arrived: list[int] = []
    for step, count in steps:
        if step == "append":
            first = buffer.last_seq + 1
            buffer.append(stored(*range(first, first + count)))
        elif step == "drop":
            buffer.drop()
        else:
            batches = buffer.batches(count)
            for batch in batches:
                # Each event's key is its number: what arrives says where it belongs.
                numbers = [int.from_bytes(key, "big") for key in split_keys(batch.joined_keys)]
                assert numbers == list(range(batch.first_seq, batch.last_seq + 1))
                arrived += numbers
            if batches:
                buffer.sent(batches[-1].last_seq)
        assert len(buffer) <= limit

    assert arrived == sorted(set(arrived))
    assert len(arrived) + len(buffer) + buffer.num_lost == buffer.last_seq
    assert buffer.marker().first_seq == buffer.last_seq - len(buffer) + 1


def test_events_stay_until_they_are_sent() -> None:
    buffer = EventBuffer("e1")
    buffer.append(stored(1, 2, 3))

    assert buffer.batches(1) == buffer.batches(1)

    buffer.append(stored(4))
    buffer.sent(3)
    assert [batch.first_seq for batch in buffer.batches(1)] == [4]


def test_events_dropped_while_they_were_being_sent_stay_dropped() -> None:
    buffer = EventBuffer("e1", limit=3)
    buffer.append(stored(1, 2))
    in_flight = buffer.batches(1)

    buffer.append(stored(3, 4))
    buffer.sent(in_flight[-1].last_seq)

    assert [batch.first_seq for batch in buffer.batches(1)] == [3]


def test_batch_comes_back_as_it_was() -> None:
    buffer = EventBuffer("e1")
    buffer.append([*stored(1), BlockEvent(BlockEventKind.CLEARED, ()), *stored(2)])
    (batch,) = buffer.batches(1)

    fields = {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in batch.to_fields().items()
    }

    assert EventBatch.from_fields(fields) == batch


def test_cleared_event_needs_no_key() -> None:
    buffer = EventBuffer("e1")

    buffer.append([BlockEvent(BlockEventKind.CLEARED, ())])

    assert len(buffer.batches(1)[0].joined_keys) == 16


@pytest.mark.parametrize(
    "fields",
    [
        {b"epoch": b"e", b"seq": b"1", b"kinds": b"\1"},
        {b"epoch": b"e", b"seq": b"1", b"kinds": b"\1", b"keys": b"short"},
        {b"epoch": b"e", b"seq": b"1", b"kinds": b"\1\1", b"keys": bytes(16)},
        {b"epoch": b"e", b"seq": b"one", b"kinds": b"", b"keys": b""},
    ],
)
def test_broken_entry_is_a_value_error(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match=r"."):
        EventBatch.from_fields(fields)
