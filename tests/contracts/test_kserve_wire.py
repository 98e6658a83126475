"""Our definition of the Open Inference Protocol against the one that Triton's clients carry."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="protoc comes with the `dev` extra")

from tools.protos import lock
from tools.protos.files import compile_protos
from tools.protos.style import FOREIGN_PACKAGE

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: one interpreter holds one definition of a name.
THEIRS = """
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from tritonclient.grpc import model_config_pb2, service_pb2
from tools.protos import lock
for module in (model_config_pb2, service_pb2):
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    print(*lock.describe([file]), sep="\\n")
"""


@pytest.mark.skipif(find_spec("tritonclient") is None, reason="comes with the `dev` extra")
def test_every_field_and_call_is_the_one_that_clients_know():
    result = subprocess.run(
        [sys.executable, "-c", THEIRS], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    ours = lock.describe([file for file in compile_protos() if file.package == FOREIGN_PACKAGE])

    assert len(ours) > 100
    assert set(ours) - set(result.stdout.splitlines()) == set()
