"""Triton kernels in Triton's interpreter, against the reference in the same cases.

Skipped without triton, and where the interpreter is known to be wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import kernels

ROOT = Path(__file__).resolve().parents[2]
CHILD = ROOT / "tests/support/interpreter_child.py"
Ask = Callable[[str, str], dict[str, str]]

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


def _grid() -> Iterator[object]:
    for op, implementations in kernels.IMPLEMENTATIONS.items():
        if "cuda" in implementations:
            for case in import_module(f"kernels.{op}.cases").CASES:
                if not case.is_large:
                    yield pytest.param(f"kernels.{op}", case.name, id=f"{op}-{case.name}")


@pytest.fixture(scope="session")
def ask() -> Iterator[Ask]:
    """Asks the interpreter's process about a case of a package."""
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(CHILD)],
        env={"PYTHONPATH": f"{ROOT}:{CHILD.parent}", "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None

    def ask(package: str, case: str) -> dict[str, str]:
        print(package, case, file=child.stdin, flush=True)
        line = child.stdout.readline()
        assert line, "the interpreter's process died; its last words are on standard error"
        return json.loads(line)

    yield ask
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()


@pytest.mark.parametrize(("package", "case"), list(_grid()))
def test_kernel_agrees_with_the_reference(ask: Ask, package: str, case: str) -> None:
    found = ask(package, case)

    if "refused" in found:
        pytest.skip(found["refused"])
    assert found["fault"] == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "module",
    [
        "kernels/test_paged_attention.py",
        "kernels/test_static_plan.py",
        "engine/test_interpreted_engine.py",
    ],
)
def test_properties_hold_in_the_interpreter(module: str) -> None:
    tests = ROOT / "tests" / module
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda", "-p", "no:cacheprovider"]
    # The interpreter is not tidy: it reads scalars from arrays of one element, for one.
    command += ["-W", "ignore", str(tests)]

    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert result.returncode == 0, result.stdout[-3000:]


def test_a_right_kernel_has_no_fault(ask: Ask) -> None:
    assert ask("made_kernel", "float32") == {"fault": ""}
    assert ask("made_kernel", "float16") == {"fault": ""}


def test_a_wrong_kernel_has_one(ask: Ask) -> None:
    assert "off by" in ask("made_kernel", "wrong")["fault"]


def test_bfloat16_products_are_refused(ask: Ask) -> None:
    assert "bfloat16" in ask("made_kernel", "bfloat16")["refused"]


def test_an_error_of_a_kernel_is_a_fault(ask: Ask) -> None:
    assert "raised" in ask("made_kernel", "raises")["fault"]
