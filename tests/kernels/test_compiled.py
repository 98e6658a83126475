"""Triton kernels compiled ahead of time for an H200, on a machine without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import pytest

import kernels
from kernels.launch import SHARED_BYTES, Launch, compile_launch

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


def _launches() -> Iterator[object]:
    for op, implementations in kernels.IMPLEMENTATIONS.items():
        if "cuda" in implementations and find_spec("triton") is not None:
            for launch in import_module(f"kernels.{op}.cuda").LAUNCHES:
                yield pytest.param(launch, id=f"{op}-{launch.name}")


def _check(launch: Launch, record: Callable[[str, object], None]) -> None:
    compiled = compile_launch(launch)
    for name in ("num_registers", "spill_bytes", "shared_bytes"):
        record(name, getattr(compiled, name))

    assert compiled.spill_bytes == 0
    assert compiled.shared_bytes <= SHARED_BYTES
    assert [text for text in launch.expects if text not in compiled.ptx] == []
    assert [text for text in launch.forbids if text in compiled.ptx] == []


@pytest.mark.parametrize("launch", list(_launches()))
def test_kernel_compiles_for_hopper(launch: Launch, record_property) -> None:
    _check(launch, record_property)


def test_every_triton_implementation_declares_launches() -> None:
    for op, implementations in kernels.IMPLEMENTATIONS.items():
        if "cuda" in implementations:
            launches = import_module(f"kernels.{op}.cuda").LAUNCHES
            assert launches, f"kernels/{op}/cuda.py declares no launches"
            assert len({launch.name for launch in launches}) == len(launches)


def test_what_a_kernel_lacks_fails_its_check() -> None:
    launch = import_module("made_kernel.cuda").LAUNCHES[0]
    found: dict[str, object] = {}

    _check(launch, found.__setitem__)

    assert 0 < found["num_registers"] <= 255
    with pytest.raises(AssertionError, match="no such instruction"):
        _check(replace(launch, expects=("no such instruction",)), found.__setitem__)
    with pytest.raises(AssertionError, match="wgmma"):
        _check(replace(launch, forbids=("wgmma",)), found.__setitem__)
