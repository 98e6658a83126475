"""Records survive their way through Redis."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_world import make_record

from baton.blocks import KvLayout
from baton.engine.types import StepLoad
from baton.registry.records import Fields, LoadRecord, WorkerRecord
from baton.request import Role

TEXT = st.text(max_size=20).filter(lambda text: "\ud800" not in text)
LAYOUTS = st.builds(
    KvLayout,
    block_size=st.integers(1, 64),
    num_layers=st.integers(1, 99),
    num_kv_heads=st.integers(1, 64),
    head_dim=st.integers(1, 256),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    namespace=TEXT,
)
RECORDS = st.builds(
    WorkerRecord,
    worker_id=TEXT,
    role=st.sampled_from(Role),
    address=TEXT,
    epoch=TEXT,
    model=TEXT,
    layout=st.none() | LAYOUTS,
    num_blocks=st.integers(0, 1 << 40),
    context_len=st.integers(0, 1 << 30),
    metrics_address=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    transports=st.lists(TEXT, max_size=3).map(tuple),
    is_draining=st.booleans(),
)


def as_read(fields: Fields) -> dict[bytes, bytes]:
    """A hash as Redis gives it back."""
    return {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in fields.items()
    }


@given(RECORDS)
def test_worker_record_comes_back_as_it_was(record: WorkerRecord) -> None:
    assert WorkerRecord.from_fields(as_read(record.to_fields())) == record


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("role", b"JESTER"),
        ("num_blocks", b"many"),
        ("layout", b'{"block_size": 1}'),
        ("epoch", None),
    ],
)
def test_broken_worker_record_is_a_value_error(name: str, value: bytes | None) -> None:
    fields = as_read(make_record("d0", "e1").to_fields())
    if value is None:
        del fields[name.encode()]
    else:
        fields[name.encode()] = value

    with pytest.raises(ValueError, match=r"."):
        WorkerRecord.from_fields(fields)


def test_load_record_is_made_of_an_engines_step() -> None:
    step = StepLoad(num_running=3, num_waiting=2, num_receiving=1, num_used_blocks=7, step_us=900)

    load = LoadRecord.of(step)

    assert load.num_sequences == 6
    assert LoadRecord.from_json(load.to_json().encode()) == load


def test_load_record_of_another_version_is_read_as_far_as_it_goes() -> None:
    raw = json.dumps({"num_running": 3, "num_dreams": 9}).encode()

    assert LoadRecord.from_json(raw) == LoadRecord(num_running=3)


@pytest.mark.parametrize("raw", [b"", b"[]", b"no", b'{"num_running": "x"}'])
def test_broken_load_record_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        LoadRecord.from_json(raw)
