"""The style of the protos as rules over their descriptors, comments included."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    ServiceDescriptorProto,
    SourceCodeInfo,
)

Comment = Callable[..., str]
"""The comment in front of the thing at a path, which is made of field numbers and indexes."""

# Field numbers inside descriptor.proto: the steps of such a path.
_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
_MESSAGE_FIELDS, _MESSAGE_NESTED, _MESSAGE_ENUMS, _MESSAGE_ONEOFS = 2, 3, 4, 8
_VALUES = _METHODS = 2

_PREPOSITIONS = frozenset(
    {"after", "at", "before", "by", "during", "for", "from", "in", "into"}
    | {"of", "on", "per", "to", "until", "with"}
)
# Repeated fields that read better without an `s`: a list of indexes and a ranking.
_PLURAL_WITHOUT_S = {"FindMissingResponse.missing", "PositionLogprobs.top"}

FOREIGN_PACKAGE = "inference"
# The Open Inference Protocol's names are what its clients send: here the rules on names give way.
_FOREIGN_NAMES = frozenset(
    {"baton/kserve/v2/inference.proto", "GRPCInferenceService.ModelStreamInfer"}
    | {"ModelMetadataResponse.TensorMetadata.shape", "ModelInferRequest.InferInputTensor.shape"}
    | {"ModelInferResponse.InferOutputTensor.shape", "ModelConfig.input", "ModelConfig.output"}
)
_FOREIGN_PREFIX = "TYPE_"
"""Of the values of its enum `DataType`."""


def find_problems(files: Sequence[FileDescriptorProto]) -> list[str]:
    """One sentence per broken rule, each beginning with what it is about."""
    return [
        problem
        for file in files
        for problem in _check_file(file)
        if file.package != FOREIGN_PACKAGE or not _is_excepted(problem)
    ]


def _is_excepted(problem: str) -> bool:
    """Whether a foreign name breaks a rule. Comments are ours everywhere."""
    subject, _, complaint = problem.partition(": ")
    if "comment" in complaint:
        return False
    return subject in _FOREIGN_NAMES or subject.startswith(_FOREIGN_PREFIX)


def _check_file(file: FileDescriptorProto) -> Iterator[str]:
    comment = _comments(file.source_code_info)
    folder = file.name.rpartition("/")[0]
    if file.package != folder.replace("/", "."):
        yield f"{file.name}: package {file.package} is not the folder's name"
    if len(file.service) > 1:
        yield f"{file.name}: holds {len(file.service)} services, one per file"
    for index, service in enumerate(file.service):
        yield from _check_service(service, comment, (_SERVICES, index))
    for index, message in enumerate(file.message_type):
        yield from _check_message(message, comment, (_MESSAGES, index))
    for index, enum in enumerate(file.enum_type):
        yield from _check_enum(enum, comment, (_ENUMS, index))


def _check_service(
    service: ServiceDescriptorProto, comment: Comment, path: tuple[int, ...]
) -> Iterator[str]:
    yield from _check_comment(service.name, comment(*path))
    if not service.name.endswith("Service"):
        yield f"{service.name}: a service's name ends in `Service`"
    for index, method in enumerate(service.method):
        name = f"{service.name}.{method.name}"
        yield from _check_comment(name, comment(*path, _METHODS, index))
        for kind, type_name in (("Request", method.input_type), ("Response", method.output_type)):
            # `Connect` exists once per service: there the messages carry the service's name too.
            stem = service.name.removesuffix("Service")
            allowed = (f"{method.name}{kind}", f"{stem}{method.name}{kind}")
            if type_name.rpartition(".")[2] not in allowed:
                yield f"{name}: its messages are called {allowed[0]}, not {type_name}"


def _check_message(
    message: DescriptorProto, comment: Comment, path: tuple[int, ...], prefix: str = ""
) -> Iterator[str]:
    name = prefix + message.name
    if message.options.map_entry:
        return
    yield from _check_comment(name, comment(*path))
    maps = {nested.name for nested in message.nested_type if nested.options.map_entry}
    for index, field in enumerate(message.field):
        yield from _check_comment(f"{name}.{field.name}", comment(*path, _MESSAGE_FIELDS, index))
        yield from _check_field(name, field, is_map=field.type_name.rpartition(".")[2] in maps)
    yield from _check_numbers(name, message)
    synthetic = {field.oneof_index for field in message.field if field.proto3_optional}
    for index, oneof in enumerate(message.oneof_decl):
        if index not in synthetic:
            yield from _check_comment(
                f"{name}.{oneof.name}", comment(*path, _MESSAGE_ONEOFS, index)
            )
    for index, nested in enumerate(message.nested_type):
        yield from _check_message(nested, comment, (*path, _MESSAGE_NESTED, index), f"{name}.")
    for index, enum in enumerate(message.enum_type):
        yield from _check_enum(enum, comment, (*path, _MESSAGE_ENUMS, index))


def _check_field(message: str, field: FieldDescriptorProto, is_map: bool) -> Iterator[str]:
    name = f"{message}.{field.name}"
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name):
        yield f"{name}: a field's name is lower_snake_case"
    for word in _PREPOSITIONS & set(field.name.split("_")):
        yield f"{name}: a field's name holds no preposition (`{word}`)"
    is_repeated = field.label == FieldDescriptorProto.LABEL_REPEATED and not is_map
    if is_repeated and not field.name.endswith("s") and name not in _PLURAL_WITHOUT_S:
        yield f"{name}: a repeated field's name is a plural"


def _check_numbers(name: str, message: DescriptorProto) -> Iterator[str]:
    used = {field.number for field in message.field}
    reserved = {number for span in message.reserved_range for number in range(span.start, span.end)}
    for number in range(1, max(used | reserved, default=0)):
        if number not in used | reserved:
            yield f"{name}: number {number} is neither used nor reserved"


def _check_enum(
    enum: EnumDescriptorProto, comment: Comment, path: tuple[int, ...]
) -> Iterator[str]:
    yield from _check_comment(enum.name, comment(*path))
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    for index, value in enumerate(enum.value):
        yield from _check_comment(value.name, comment(*path, _VALUES, index))
        if not value.name.startswith(prefix):
            yield f"{value.name}: a value of {enum.name} begins with {prefix}"
        if value.number == 0 and value.name != f"{prefix}UNSPECIFIED":
            yield f"{value.name}: zero is called {prefix}UNSPECIFIED"


def _check_comment(name: str, comment: str) -> Iterator[str]:
    if not comment:
        yield f"{name}: has no comment"
    elif not comment.endswith(".") or not re.match(r"[A-Z0-9`(]", comment):
        yield f"{name}: its comment is not a sentence: {comment!r}"


def _comments(info: SourceCodeInfo) -> Comment:
    by_path = {tuple(place.path): place.leading_comments.strip() for place in info.location}
    return lambda *path: by_path.get(path, "")
