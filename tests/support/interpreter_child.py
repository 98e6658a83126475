"""Runs ops in Triton's interpreter, in a process of its own: it is chosen before triton loads.

A line `module case` on standard input is answered by one of JSON: a fault (empty if there is none),
or why the interpreter is refused. Both modules of an op are named by its package.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

# Matrix products of a few rows are slower on several threads.
os.environ.update(TRITON_INTERPRET="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder

from kernels.case import difference

BFLOAT16_DOT = "products of bfloat16 are wrong in the interpreter of Triton"


class Refused(Exception):
    """What Triton's interpreter would get wrong in silence."""


def refuse_bfloat16_dots() -> None:
    """Makes `tl.dot` of bfloat16 raise instead of being off by orders of magnitude."""
    right = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        if tl.bfloat16 in (a.dtype.scalar, b.dtype.scalar):
            raise Refused(BFLOAT16_DOT)
        return right(self, a, b, *rest)

    InterpreterBuilder.create_dot = create_dot


def narrow_by_torch() -> None:
    """Replaces the interpreter's own conversions, which lose carries and don't round to even."""
    own = interpreter._convert_float
    narrower = {
        tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8, 448.0),
        tl.bfloat16: (torch.bfloat16, torch.uint16, float("inf")),
    }

    def convert(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source != tl.float32 or target not in narrower:
            return own(data, source, target, rounding)
        dtype, bits, limit = narrower[target]
        wide = torch.from_numpy(data.view("float32").copy())
        return wide.clamp(-limit, limit).to(dtype).view(bits).numpy()

    interpreter._convert_float = convert


def answer(package: str, name: str) -> dict[str, str]:
    case = next(case for case in import_module(f"{package}.cases").CASES if case.name == name)
    reference = import_module(f"{package}.reference").run
    try:
        fault = difference(case, import_module(f"{package}.cuda").run, reference, "cpu")
    except Exception as error:
        if BFLOAT16_DOT in str(error):
            return {"refused": BFLOAT16_DOT}
        raise
    return {"fault": fault}


def main() -> None:
    refuse_bfloat16_dots()
    narrow_by_torch()
    torch.set_num_threads(1)
    # New tensors hold NaN until they are written.
    torch.use_deterministic_algorithms(True, warn_only=True)
    for line in sys.stdin:
        package, _, name = line.strip().partition(" ")
        try:
            found = answer(package, name)
        except Exception as error:
            found = {"fault": f"raised {type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
