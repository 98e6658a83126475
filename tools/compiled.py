"""Compiles every Triton kernel for Hopper and records what came of it; needs no GPU.

`make compile-kernels` writes `bench/results/kernels-sm90.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import kernels
from kernels.launch import Launch, compile_launch

RESULT = Path(__file__).resolve().parents[1] / "bench/results/kernels-sm90.md"
HEADER = """\
# Triton kernels, compiled for sm_90a

Compiled ahead of time with triton {triton}; nothing here was run. Made by `make compile-kernels`.
`wgmma`, `mma` and `cp.async.cg` (16 bytes) count instructions in the PTX, not executions. Shared
memory is the program's own; a Hopper processor has 227 KB for a program, 65,536 registers and 64
warps.

| op | launch | warps | registers | spilled bytes | shared bytes | wgmma | mma | cp.async.cg |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def main() -> int:
    """Compiles all; what does not compile raises."""
    rows = [_row(op, launch) for op, launch in _launches()]
    RESULT.write_text(HEADER.format(triton=version("triton")) + "\n".join(rows) + "\n")
    print(f"{RESULT.name}: {len(rows)} kernels")
    return 0


def _launches() -> Iterator[tuple[str, Launch]]:
    for op, implementations in kernels.IMPLEMENTATIONS.items():
        if "cuda" in implementations:
            for launch in import_module(f"kernels.{op}.cuda").LAUNCHES:
                yield op, launch


def _row(op: str, launch: Launch) -> str:
    made = compile_launch(launch)
    counts = (made.ptx.count(text) for text in ("wgmma.mma_async", "mma.sync", "cp.async.cg"))
    sizes = (made.num_registers, made.spill_bytes, made.shared_bytes)
    cells = (op, launch.name, launch.num_warps, *sizes, *counts)
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    sys.exit(main())
