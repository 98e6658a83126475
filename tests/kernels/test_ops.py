"""Every implementation of every op against its reference, in every case."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

import kernels
from kernels import native
from kernels.case import Case, difference

FOLDER = Path(kernels.__file__).parent
OPS = sorted({path.parent.name for path in FOLDER.glob("*/__init__.py")} - {"native"})


def _cases(op: str) -> tuple[Case, ...]:
    return import_module(f"kernels.{op}.cases").CASES if (FOLDER / op / "cases.py").exists() else ()


def _grid() -> Iterator[object]:
    for op in OPS:
        for implementation in kernels.IMPLEMENTATIONS.get(op, ()):
            for case in _cases(op):
                name = f"{op}-{implementation}-{case.name}"
                if implementation in ("reference", "cpu", "native"):
                    yield pytest.param(op, implementation, case, "cpu", id=f"{name}-cpu")
                if implementation not in ("cpu", "native"):
                    marks = pytest.mark.gpu
                    yield pytest.param(
                        op, implementation, case, "cuda", id=f"{name}-cuda", marks=marks
                    )


@pytest.fixture
def _poisoned_memory() -> Iterator[None]:
    """New tensors hold NaN until they are written."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_poisoned_memory")
@pytest.mark.filterwarnings("ignore:.*deterministic.*:UserWarning")
@pytest.mark.parametrize(("op", "implementation", "case", "device"), list(_grid()))
def test_implementation_agrees_with_the_reference(
    op: str, implementation: str, case: Case, device: str
) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    if implementation == "native" and not native.is_available():
        pytest.skip("needs a C++ compiler")
    run = import_module(f"kernels.{op}.{implementation}").run
    # A GPU's reference has the CPU's as its own reference: see test_references.py.
    reference = import_module(f"kernels.{op}.reference").run

    fault = difference(case, run, reference, device)

    assert fault == ""


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_cases_of_which_the_first_is_quick(op: str) -> None:
    cases = _cases(op)

    assert cases, f"kernels/{op} has no cases"
    assert len({case.name for case in cases}) == len(cases)


def test_the_table_lists_the_implementations_that_the_folders_hold() -> None:
    found = {
        op: {path.stem for path in (FOLDER / op).iterdir()} & {"reference", "cpu", "native", "cuda"}
        for op in OPS
    }

    assert found == {op: set(names) for op, names in kernels.IMPLEMENTATIONS.items()}


def test_a_wrong_result_is_a_difference() -> None:
    case = _cases("silu_mul")[0]
    reference = import_module("kernels.silu_mul.reference").run

    def off(gate_up: torch.Tensor) -> torch.Tensor:
        return reference(gate_up) * 1.001

    def not_a_number(gate_up: torch.Tensor) -> torch.Tensor:
        return reference(gate_up) * torch.nan

    def narrow(gate_up: torch.Tensor) -> torch.Tensor:
        return reference(gate_up).half()

    assert "off by" in difference(case, off, reference, "cpu")
    assert "off by" in difference(case, not_a_number, reference, "cpu")
    assert "not torch.float32" in difference(case, narrow, reference, "cpu")
