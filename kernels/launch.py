"""How an op's `cuda.py` declares its Triton kernels, so that they compile where there is no GPU.

Imported by `cuda.py` files; imports triton itself only to compile.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

CAPABILITY = 90
"""Hopper: the H200. Triton itself turns it into sm_90a."""
SHARED_BYTES = 227 * 1024
"""Shared memory that one program may use there."""
_H200_PROCESSORS = 132


@dataclass(frozen=True, slots=True)
class Launch:
    """One specialisation of a Triton kernel, as it is launched on a GPU.

    `LAUNCHES` of a `cuda.py` lists those that real models use; tests compile each of them.
    """

    name: str
    kernel: Any
    """The function under `@triton.jit`."""
    arguments: Mapping[str, str]
    """Triton's type of each parameter that isn't in `constants`: `*bf16`, `i32`, `i64`, `fp32`. A
    pointer or an integer with `:16` behind it is divisible by 16, which Triton finds out by itself
    at a real launch: without it vector loads vanish."""
    constants: Mapping[str, Any]
    """Values of the `tl.constexpr` parameters, and of parameters that are always None or 1."""
    num_warps: int = 4
    num_stages: int = 3
    expects: tuple[str, ...] = ()
    """What the PTX must contain, such as `wgmma.mma_async`."""
    forbids: tuple[str, ...] = ()
    """What the PTX must not contain, such as `mma.sync`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of the compiler, such as `maxnreg`."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What the compiler made of a launch."""

    ptx: str
    num_registers: int
    """Per thread."""
    spill_bytes: int
    """Stores and loads of registers to local memory together, per thread."""
    shared_bytes: int
    """Per program, dynamic and static together."""


def is_interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; for the interpreter's CPU those of an H200."""
    if device.type != "cuda":
        return _H200_PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def compile_launch(launch: Launch) -> Compiled:
    """Compiles for Hopper, on any machine with triton; not under the interpreter."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {name: kind.partition(":")[0] for name, kind in launch.arguments.items()}
    names = launch.kernel.arg_names
    attributes = {
        (names.index(name),): [["tt.divisibility", int(kind.partition(":")[2])]]
        for name, kind in launch.arguments.items()
        if ":" in kind
    }
    source = ASTSource(
        fn=launch.kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs=dict(launch.constants),
        attrs=attributes,
    )
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, **launch.options}
    made = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options)
    report = _assemble(made.asm["ptx"])
    return Compiled(
        ptx=made.asm["ptx"],
        num_registers=_number(r"Used (\d+) registers", report),
        spill_bytes=_number(r"(\d+) bytes spill stores", report)
        + _number(r"(\d+) bytes spill loads", report),
        shared_bytes=int(made.metadata.shared),
    )


def _assemble(ptx: str) -> str:
    """What `ptxas -v`, which comes with triton, says about a kernel."""
    import triton

    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [str(assembler), "-v", f"--gpu-name=sm_{CAPABILITY}a", str(source)]
        command += ["-o", str(Path(folder, "kernel.cubin"))]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, f"ptxas did not say {pattern!r}"
    return int(found[1])
