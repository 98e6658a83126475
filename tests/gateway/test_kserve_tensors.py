"""Tensors of hostile clients: whatever the bytes are, they are read right or refused by name."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.errors import InvalidRequest
from baton.kserve.v2 import inference_pb2 as pb
from services.gateway.kserve.parameters import PARAMETERS, collect
from services.gateway.kserve.requests import Origin, read
from services.gateway.kserve.tensors import MAX_STRINGS, read_inputs, strings

DATATYPES = (
    *("BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
    *("FP16", "FP32", "FP64", "BYTES", "BF16", ""),
)
NAMES = ("text_input", "input_ids", "sampling_parameters", "sequence_id", "x", *PARAMETERS)
LISTS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=9),
}
contents = st.fixed_dictionaries(
    {}, optional={name: st.lists(item, max_size=3) for name, item in LISTS.items()}
)
shapes = st.lists(st.one_of(st.integers(0, 3), st.integers(-(2**63), 2**63 - 1)), max_size=10)
values = st.one_of(
    st.builds(pb.InferParameter, bool_param=st.booleans()),
    st.builds(pb.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)),
    st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
    st.builds(pb.InferParameter, double_param=st.floats()),
    st.builds(
        pb.InferParameter, string_param=st.sampled_from(["{}", "[", '{"n": [{}]}', "1", "x"])
    ),
    st.just(pb.InferParameter()),
)


@st.composite
def requests(draw: Any) -> pb.ModelInferRequest:
    """Requests that may be anything that the protocol can carry."""
    parameters = draw(st.dictionaries(st.sampled_from(NAMES), values, max_size=3))
    message = pb.ModelInferRequest(id=draw(st.text(max_size=5)), parameters=parameters)
    for _ in range(draw(st.integers(0, 3))):
        tensor = message.inputs.add(
            name=draw(st.sampled_from(NAMES)),
            datatype=draw(st.sampled_from(DATATYPES)),
            shape=draw(shapes),
        )
        for name, items in draw(contents).items():
            getattr(tensor.contents, name).extend(items)
    raws = draw(st.lists(st.binary(max_size=24), max_size=3))
    message.raw_input_contents.extend(raws)
    return message


@given(requests())
def test_any_request_is_read_or_refused_with_a_field(message):
    refusal = None
    try:
        question = read(message, Origin())
    except InvalidRequest as error:
        refusal = error

    if refusal is None:
        assert (question.fields.text is None) != (question.fields.token_ids is None)
    else:
        assert refusal.field
        assert refusal.message


@given(st.binary(max_size=64), st.integers(0, 5))
def test_raw_bytes_are_cut_as_their_lengths_say_or_refused(raw, count):
    message = pb.ModelInferRequest(raw_input_contents=[raw])
    message.inputs.add(name="stop", datatype="BYTES", shape=[count])
    tensor = read_inputs(message)["stop"]

    try:
        parts = tensor.values()
    except InvalidRequest:
        return

    assert len(parts) == count
    assert raw == b"".join(struct.pack("<I", len(p.encode())) + p.encode() for p in parts)


@given(st.text())
def test_text_survives_writing_and_reading(text):
    written = strings("text_output", text)
    message = pb.ModelInferRequest(raw_input_contents=[written.raw])
    message.inputs.add(name="text_input", datatype="BYTES", shape=written.shape)

    assert read(message, Origin()).fields.text == text


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1), st.booleans())
def test_token_ids_are_the_same_in_raw_and_typed_contents(ids, is_raw):
    message = pb.ModelInferRequest()
    tensor = message.inputs.add(name="input_ids", datatype="INT32", shape=[1, len(ids)])
    if is_raw:
        message.raw_input_contents.append(struct.pack(f"<{len(ids)}i", *ids))
    else:
        tensor.contents.int_contents.extend(ids)

    assert list(read(message, Origin()).fields.token_ids) == ids


def test_too_many_strings_are_refused_before_they_are_cut():
    message = pb.ModelInferRequest(raw_input_contents=[b"\x00" * 4 * (MAX_STRINGS + 1)])
    message.inputs.add(name="stop", datatype="BYTES", shape=[MAX_STRINGS + 1])

    with pytest.raises(InvalidRequest, match=r"stop has 1,025 elements; at most 1,024"):
        collect({}, read_inputs(message))


def test_the_shorter_of_deadline_and_timeout_counts():
    message = pb.ModelInferRequest(parameters={"timeout": pb.InferParameter(int64_param=2_000_000)})
    tensor = message.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"Hello")

    assert read(message, Origin()).fields.timeout_s == 2.0
    assert read(message, Origin(time_left_s=1.5)).fields.timeout_s == 1.5
    assert read(message, Origin(time_left_s=60.0)).fields.timeout_s == 2.0


@pytest.mark.parametrize(("level", "ours"), [(0, 0), (1, 100), (101, 0), (201, -100)])
def test_triton_priorities_are_ours_turned_round(level, ours):
    parameters = {"priority": pb.InferParameter(uint64_param=level)}

    assert collect(parameters, {}) == {"priority": ours}
