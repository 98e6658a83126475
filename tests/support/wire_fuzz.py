"""Random messages of any protobuf type, from its descriptor, and what a wire may carry else."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

# Beside random ones: zero, one, limits of ours and their neighbours, the ends of each width.
_UNSIGNED = (0, 1, 2, 16, 100, 128, 129, 1024, 2**31 - 1, 2**31, 2**32 - 1)
_SIGNED = (0, 1, -1, 100, 101, -101, 2**31 - 1, -(2**31))
_FLOATS = (0.0, -0.0, 1.0, 2.0, 2.5, -2.5, 1e-30, 3e38, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "",
    "a",
    "x" * 129,
    "y" * 70_000,
    "é😀",
    "two words",
    "a\nb\x00",
    "shm",
    "grpc",
    "float32",
)
_BYTES = (b"", b"\x01\x00\x00\x00", b"\x05\x00\x00\x00" * 9, b"abc", b"\xff" * 16, b"\xff" * 70_000)
_UNKNOWN_FIELD = b"\xfa\x3f\x03odd"
"""Field 1023, three bytes."""

_NUMBERS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.sampled_from(_SIGNED) | st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.sampled_from(_SIGNED) | st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: st.sampled_from(_UNSIGNED) | st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.sampled_from((*_UNSIGNED, 2**63, 2**64 - 1)),
    FieldDescriptor.TYPE_FIXED64: st.sampled_from((0, 1, 2**64 - 1)),
    FieldDescriptor.TYPE_FLOAT: st.sampled_from(_FLOATS),
    FieldDescriptor.TYPE_DOUBLE: st.sampled_from(_FLOATS),
    FieldDescriptor.TYPE_STRING: st.sampled_from(_TEXTS) | st.text(max_size=8),
    FieldDescriptor.TYPE_BYTES: st.sampled_from(_BYTES) | st.binary(max_size=24),
    FieldDescriptor.TYPE_ENUM: st.sampled_from((0, 1, 2, 3, 99, -1, 2**31 - 1)),
}


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 4) -> Message:
    """A valid message; now and then with a field that nobody knows."""
    message: Message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if draw(st.booleans()):
            _fill(draw, message, field, depth)
    if draw(st.integers(0, 9)) == 0:
        message.MergeFromString(_UNKNOWN_FIELD)
    return message


def _fill(draw: st.DrawFn, message: Message, field: FieldDescriptor, depth: int) -> None:
    kind = field.message_type
    is_map = kind is not None and kind.GetOptions().map_entry
    if is_map:
        keys = draw(st.lists(_NUMBERS[kind.fields_by_name["key"].type], max_size=3))
        for key in keys:
            getattr(message, field.name)[key] = draw(_NUMBERS[kind.fields_by_name["value"].type])
    elif field.is_repeated:
        part = messages(kind, depth - 1) if kind is not None else _NUMBERS[field.type]
        if kind is None or depth:
            getattr(message, field.name).extend(draw(st.lists(part, max_size=3)))
    elif kind is not None:
        if depth:
            getattr(message, field.name).CopyFrom(draw(messages(kind, depth - 1)))
    else:
        setattr(message, field.name, draw(_NUMBERS[field.type]))


def wire(descriptor: Descriptor) -> st.SearchStrategy[bytes]:
    """What may come as one message: mostly valid, sometimes garbage."""
    valid = messages(descriptor).map(lambda message: message.SerializeToString())
    return st.one_of(valid, valid, valid, st.binary(max_size=40))
