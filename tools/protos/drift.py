"""Whether the committed stubs are what the protos say.

Descriptors are compared, not text, so that the answer does not depend on the version of protoc.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tools.protos.files import ROOT


def find_problems(files: Sequence[FileDescriptorProto]) -> list[str]:
    """One sentence per stub that is missing, old or left over."""
    return [
        *(problem for file in files for problem in _check_file(file)),
        *_find_left_overs(files),
    ]


def _check_file(file: FileDescriptorProto) -> Iterator[str]:
    stem = file.name.removesuffix(".proto")
    if not (ROOT / f"{stem}_pb2.py").exists():
        yield f"{stem}_pb2.py: missing; run `make protos`"
        return
    module = importlib.import_module(f"{stem}_pb2".replace("/", "."))
    stub = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(stub)
    if _bare(stub) != _bare(file):
        yield f"{stem}_pb2.py: differs from {file.name}; run `make protos`"
    for path, words in (
        (ROOT / f"{stem}_pb2.pyi", [f"class {message.name}(" for message in file.message_type]),
        (ROOT / f"{stem}_pb2_grpc.py", _calls(file)),
    ):
        text = path.read_text() if path.exists() else ""
        for word in words:
            if word not in text:
                yield f"{path.name}: lacks `{word}`; run `make protos`"


def _calls(file: FileDescriptorProto) -> list[str]:
    return [
        f"'/{file.package}.{service.name}/{method.name}'"
        for service in file.service
        for method in service.method
    ]


def _find_left_overs(files: Sequence[FileDescriptorProto]) -> Iterator[str]:
    stems = {file.name.removesuffix(".proto") for file in files}
    for path in sorted((ROOT / "baton").rglob("*_pb2*.py*")):
        stem = str(path.relative_to(ROOT)).partition("_pb2")[0]
        if path.suffix in (".py", ".pyi") and stem not in stems:
            yield f"{path.name}: its proto is gone; delete it"


def _bare(file: FileDescriptorProto) -> bytes:
    """Without comments and without derived JSON names, which only protoc fills in."""
    bare = FileDescriptorProto()
    bare.CopyFrom(file)
    bare.ClearField("source_code_info")
    messages = list(bare.message_type)
    while messages:
        message = messages.pop()
        messages.extend(message.nested_type)
        for field in message.field:
            field.ClearField("json_name")
    return bare.SerializeToString(deterministic=True)
