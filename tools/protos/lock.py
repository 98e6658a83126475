"""`protos/v1.lock`: every field, value and call in one line each, added to and never changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from tools.protos.files import LOCK

HEADER = "# What is on the wire. Lines may be added, never changed. Made by `make protos`.\n"


def describe(files: Sequence[FileDescriptorProto]) -> list[str]:
    """The lines that these protos make, by file and then in their order."""
    return [line for file in files for line in _describe_file(file)]


def find_problems(files: Sequence[FileDescriptorProto], lock: Path = LOCK) -> list[str]:
    """Lines of the lock that no longer hold, and lines it lacks."""
    locked, present = _read(lock), describe(files)
    missing = [line for line in present if line not in set(locked)]
    return [
        *_find_changes(locked, present),
        *(f"{lock.name}: lacks `{line}`; run `make protos`" for line in missing),
    ]


def extend(files: Sequence[FileDescriptorProto], lock: Path = LOCK) -> list[str]:
    """Writes new lines into the lock; changes nothing and says so where a locked line is broken."""
    present = describe(files)
    problems = _find_changes(_read(lock), present)
    if not problems:
        lock.write_text(HEADER + "".join(f"{line}\n" for line in present))
    return problems


def _find_changes(locked: Sequence[str], present: Sequence[str]) -> list[str]:
    gone = [line for line in locked if line not in set(present)]
    return [
        f"v1.lock: `{line}` is on the wire and must stay; a break opens another version"
        for line in gone
    ]


def _read(lock: Path) -> list[str]:
    if not lock.exists():
        return []
    return [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]


def _describe_file(file: FileDescriptorProto) -> Iterator[str]:
    for service in file.service:
        for method in service.method:
            asks = ("stream " if method.client_streaming else "") + method.input_type[1:]
            gives = ("stream " if method.server_streaming else "") + method.output_type[1:]
            yield f"{file.package}.{service.name}.{method.name} ({asks}) -> ({gives})"
    for enum in file.enum_type:
        yield from _describe_enum(f"{file.package}.{enum.name}", enum)
    for message in file.message_type:
        yield from _describe_message(f"{file.package}.{message.name}", message)


def _describe_message(name: str, message: DescriptorProto) -> Iterator[str]:
    for field in message.field:
        yield f"{name}.{field.name} = {field.number} {_describe_type(message, field)}"
    for nested in message.nested_type:
        yield from _describe_message(f"{name}.{nested.name}", nested)
    for enum in message.enum_type:
        yield from _describe_enum(f"{name}.{enum.name}", enum)


def _describe_type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    kind = field.type_name[1:] or FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    if field.proto3_optional:
        return f"optional {kind}"
    if field.HasField("oneof_index"):
        return f"{kind} in {message.oneof_decl[field.oneof_index].name}"
    return kind


def _describe_enum(name: str, enum: EnumDescriptorProto) -> Iterator[str]:
    for value in enum.value:
        yield f"{name}.{value.name} = {value.number}"
