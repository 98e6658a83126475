"""Tensors as the protocol carries them: checked in form, read element by element, written."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baton.errors import InvalidRequest
from baton.kserve.v2 import inference_pb2 as pb
from baton.tokens import TokenIds

MAX_DIMENSIONS = 8
"""Of one tensor. Shapes are multiplied out, so their number is bounded."""
MAX_STRINGS = 1024
"""Elements of one BYTES tensor."""
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class _Form:
    """How elements of a type lie in raw contents (a code of `struct`), and their typed list."""

    code: str
    typed: str = ""

    @property
    def num_bytes(self) -> int:
        return struct.calcsize(f"<{self.code}")


_FORMS: Mapping[str, _Form] = {
    "BOOL": _Form("?", "bool_contents"),
    "INT8": _Form("b", "int_contents"),
    "INT16": _Form("h", "int_contents"),
    "INT32": _Form("i", "int_contents"),
    "INT64": _Form("q", "int64_contents"),
    "UINT8": _Form("B", "uint_contents"),
    "UINT16": _Form("H", "uint_contents"),
    "UINT32": _Form("I", "uint_contents"),
    "UINT64": _Form("Q", "uint64_contents"),
    "FP16": _Form("e"),
    "FP32": _Form("f", "fp32_contents"),
    "FP64": _Form("d", "fp64_contents"),
}
_TOKEN_TYPES = ("INT32", "INT64", "UINT32", "UINT64")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input whose type, shape and number of bytes fit together."""

    name: str
    datatype: str
    count: int
    raw: bytes | None
    """As it came; None: the elements are in `typed`."""
    typed: Sequence[Any] = ()

    def values(self) -> list[Any]:
        """All elements as Python's numbers, truth values or text."""
        if self.datatype == "BYTES":
            return [self._decoded(part) for part in self._parts()]
        if self.raw is None:
            return list(self.typed)
        return list(struct.unpack(f"<{self.count}{_FORMS[self.datatype].code}", self.raw))

    def token_ids(self) -> Sequence[int]:
        """The elements as token ids; raw 32-bit ones are packed ids as they are."""
        if self.datatype not in _TOKEN_TYPES:
            raise self.refusal(
                f"is {self.datatype}; token ids are one of {', '.join(_TOKEN_TYPES)}"
            )
        if self.raw is None or self.datatype in ("INT64", "UINT64"):
            return self.values()
        token_ids = TokenIds(self.raw)
        if self.datatype == "INT32" and token_ids.highest >= 1 << 31:
            return self.values()  # negative ones, to be refused by their value
        return token_ids

    def refusal(self, complaint: str) -> InvalidRequest:
        """An error about this tensor."""
        return InvalidRequest(f"{self.name} {complaint}.", field=self.name)

    def _parts(self) -> list[bytes]:
        if self.count > MAX_STRINGS:
            raise self.refusal(f"has {self.count:,} elements; at most {MAX_STRINGS:,} are allowed")
        return list(self.typed) if self.raw is None else self._split(self.raw)

    def _split(self, raw: bytes) -> list[bytes]:
        """Elements that each come behind their length."""
        parts: list[bytes] = []
        at = 0
        while at < len(raw) and len(parts) < self.count:
            start = at + _LENGTH.size
            length = _LENGTH.unpack_from(raw, at)[0] if start <= len(raw) else 0
            at = start + length
            if at > len(raw):
                raise self.refusal(
                    f"breaks off: element {len(parts)} ends at byte {at:,} of {len(raw):,}"
                )
            parts.append(raw[start:at])
        if at != len(raw) or len(parts) != self.count:
            raise self.refusal(
                f"has {len(parts)} elements in {at:,} of its {len(raw):,} bytes; "
                f"its shape asks for {self.count}"
            )
        return parts

    def _decoded(self, part: bytes) -> str:
        try:
            return part.decode()
        except UnicodeDecodeError as error:
            raise self.refusal(f"is not UTF-8 at byte {error.start}") from error


def read_inputs(request: pb.ModelInferRequest) -> dict[str, Tensor]:
    """The inputs by name. Raises `InvalidRequest` for one whose form makes no sense."""
    raws: list[bytes | None] = list(request.raw_input_contents)
    if raws and len(raws) != len(request.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(raws)} parts for {len(request.inputs)} inputs; "
            "it has one for each, or none at all.",
            field="raw_input_contents",
        )
    tensors: dict[str, Tensor] = {}
    for message, raw in zip(request.inputs, raws or [None] * len(request.inputs), strict=True):
        if message.name in tensors:
            raise _refusal(message.name, "is given twice")
        tensors[message.name] = _read_input(message, raw)
    return tensors


def _read_input(message: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    name, datatype = message.name, message.datatype
    if datatype != "BYTES" and datatype not in _FORMS:
        known = ", ".join((*_FORMS, "BYTES"))
        raise _refusal(name, f"has the datatype {datatype!r}; known: {known}")
    for parameter in message.parameters:
        raise _refusal(name, f"has the parameter {parameter!r}, which is not supported")
    count = _count(name, message.shape)
    typed: Sequence[Any] = ()
    if raw is None:
        typed = _typed(message, count)
    elif message.HasField("contents"):
        raise _refusal(name, "has contents beside raw_input_contents")
    elif datatype != "BYTES" and len(raw) != count * _FORMS[datatype].num_bytes:
        raise _refusal(
            name,
            f"has {len(raw):,} bytes; {count:,} elements of {datatype} take "
            f"{count * _FORMS[datatype].num_bytes:,}",
        )
    return Tensor(name, datatype, count, raw, typed)


def _typed(message: pb.ModelInferRequest.InferInputTensor, count: int) -> Sequence[Any]:
    form = _FORMS.get(message.datatype)
    name = form.typed if form is not None else "bytes_contents"
    if not name:
        raise _refusal(message.name, f"is {message.datatype}, which travels in raw contents only")
    found: Sequence[Any] = getattr(message.contents, name)
    if len(found) != count:
        raise _refusal(
            message.name, f"has {len(found):,} elements in {name}; its shape asks for {count:,}"
        )
    return found


def _count(name: str, shape: Sequence[int]) -> int:
    if len(shape) > MAX_DIMENSIONS:
        raise _refusal(name, f"has {len(shape):,} dimensions; at most {MAX_DIMENSIONS} are allowed")
    for size in shape:
        if size < 0:
            raise _refusal(name, f"has {size} in its shape; sizes are not negative")
    return math.prod(shape)


def _refusal(name: str, complaint: str) -> InvalidRequest:
    return InvalidRequest(f"input {name} {complaint}.", field=name)


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor of an answer."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


def packed(text: str) -> bytes:
    """An element of a BYTES tensor: itself behind its length."""
    content = text.encode()
    return _LENGTH.pack(len(content)) + content


def strings(name: str, text: str) -> Output:
    """A BYTES tensor of one element."""
    return Output(name, "BYTES", (1,), packed(text))


def numbers(
    name: str, datatype: str, elements: Sequence[float], width: int | None = None
) -> Output:
    """A tensor of numbers: one row, or as many as there are of `width`."""
    raw = struct.pack(f"<{len(elements)}{_FORMS[datatype].code}", *elements)
    if width is None:
        return Output(name, datatype, (len(elements),), raw)
    return Output(name, datatype, (len(elements) // width if width else 0, width), raw)


def write_outputs(response: pb.ModelInferResponse, outputs: Iterable[Output]) -> None:
    """Adds tensors to a response, their elements as raw contents."""
    for output in outputs:
        response.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        response.raw_output_contents.append(output.raw)
