"""Choosing, checking and announcing kernels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import torch

import kernels
from kernels import native
from kernels.native.library import forget


@pytest.fixture(autouse=True)
def _no_choice_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATON_KERNELS", raising=False)


@pytest.fixture
def native_library() -> None:
    if not native.is_available():
        pytest.skip("needs a C++ compiler")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without a compiler and without a library that was built before."""
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("CXX", "BATON_NATIVE"):
        monkeypatch.delenv(name, raising=False)
    forget()
    yield
    monkeypatch.undo()
    forget()


def test_the_implementation_for_the_device_is_taken_else_the_reference() -> None:
    ops = kernels.load("cpu")

    assert ops.chosen["take_rows"] == "cpu"
    assert ops.take_rows is import_module("kernels.take_rows.cpu").run
    assert ops.chosen["mla_decode"] == "reference"


def test_native_kernels_come_first_on_a_cpu(native_library: None) -> None:
    ops = kernels.load("cpu")

    assert ops.is_native
    assert ops.paged_attention is import_module("kernels.paged_attention.native").run
    assert ops.rms_norm is import_module("kernels.rms_norm.native").run
    assert not kernels.load("cpu", "silu_mul=reference").is_native


def test_without_a_compiler_slower_kernels_run_and_a_warning_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, no_library: None
) -> None:
    ops = kernels.load("cpu")

    assert not ops.is_native
    assert ops.chosen["paged_attention"] == "cpu"
    assert ops.chosen["rms_norm"] == "reference"
    (warned,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "install g++" in warned
    with pytest.raises(ValueError, match=r"silu_mul=native' cannot be met.*install g"):
        kernels.load("cpu", "silu_mul=native")


def test_one_line_per_op_says_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kernels")

    kernels.load("cpu")

    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(kernels.IMPLEMENTATIONS)
    assert any("op=take_rows implementation=cpu device=cpu" in line for line in lines)
    assert all(record.levelno == logging.INFO for record in caplog.records)


@pytest.mark.parametrize(
    ("choice", "attention", "sample"),
    [
        ("reference", "reference", "reference"),
        ("paged_attention=reference,sample=cpu", "reference", "cpu"),
        ("reference, sample=cpu", "reference", "cpu"),
        ("paged_attention=cpu,sample=reference", "cpu", "reference"),
    ],
)
def test_a_choice_forces_implementations(
    monkeypatch: pytest.MonkeyPatch, choice: str, attention: str, sample: str
) -> None:
    by_argument = kernels.load("cpu", choice).chosen
    monkeypatch.setenv("BATON_KERNELS", choice)
    by_environment = kernels.load("cpu").chosen

    assert by_argument == by_environment
    assert by_argument["paged_attention"] == attention
    assert by_argument["sample"] == sample


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ("tpu", "rms_norm has reference"),
        ("sample=fast", "sample has reference, cpu"),
        ("sampel=cpu", "names the op 'sampel'; there are rms_norm"),
        ("silu_mul=tpu", "silu_mul has reference"),
    ],
)
def test_a_choice_that_cannot_be_met_is_refused(choice: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        kernels.load("cpu", choice)


def test_an_implementation_for_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match="cpu does not run on cuda"):
        kernels.load("cuda:1", "paged_attention=cpu")


def test_a_wrong_kernel_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = import_module("kernels.paged_attention.cpu")
    right = module.run
    monkeypatch.setattr(module, "run", lambda *arguments: right(*arguments) * 1.01)

    with pytest.raises(RuntimeError, match=r"paged_attention=cpu is wrong on cpu in case .*off by"):
        kernels.load("cpu", "paged_attention=cpu")


def test_a_fallback_to_the_reference_is_loud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "_checked", lambda op, name, device: f"{op}={name}")

    ops = kernels.load("tpu:0")

    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == len(kernels.IMPLEMENTATIONS)
    assert any("op=paged_attention has no implementation for tpu" in line for line in warned)
    assert set(ops.chosen.values()) == {"reference"}


@pytest.mark.gpu
@pytest.mark.parametrize("choice", ["", "reference"])
def test_all_ops_pass_their_checks_on_a_gpu(choice: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")

    chosen = kernels.load("cuda", choice).chosen

    for op, name in chosen.items():
        has_kernel = "cuda" in kernels.IMPLEMENTATIONS[op] and not choice
        assert name == ("cuda" if has_kernel else "reference")
