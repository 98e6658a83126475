"""Where the protos are, and how protoc is run over them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.resources import files as resource_files
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
LOCK = PROTOS / "v1.lock"


def proto_paths(folder: Path = PROTOS) -> list[str]:
    """Paths as protos import each other: relative to the include root."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))


def compile_protos(folder: Path = PROTOS) -> list[FileDescriptorProto]:
    """Descriptors of our own files, with their comments."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "descriptors.bin"
        options = ["--include_source_info", f"--descriptor_set_out={output}"]
        _run(folder, options, proto_paths(folder))
        return list(FileDescriptorSet.FromString(output.read_bytes()).file)


def generate_stubs(output: Path = ROOT, folder: Path = PROTOS) -> None:
    """Writes the Python stubs; a file without a service gets none for gRPC."""
    with_service = [file.name for file in compile_protos(folder) if file.service]
    _run(folder, [f"--python_out={output}", f"--pyi_out={output}"], proto_paths(folder))
    _run(folder, [f"--grpc_python_out={output}"], with_service)


def _run(folder: Path, options: Sequence[str], paths: Sequence[str]) -> None:
    well_known = resource_files("grpc_tools").joinpath("_proto")
    arguments = ["protoc", f"-I{folder}", f"-I{well_known}", *options, *paths]
    if protoc.main(arguments):
        raise SystemExit("error: protoc refused the protos; its reasons are above.")
