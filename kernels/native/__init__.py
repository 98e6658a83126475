"""The CPU's fast paths: a small C++ library, compiled on first use and called through ctypes.

It computes in float32. `find` is the library, or says why there is none. Vectors are as wide as
the machine's (AVX2, AVX-512, NEON, SSE), chosen by the compiler.
"""

from __future__ import annotations

from kernels.native.build import NativeUnavailable
from kernels.native.library import find, is_available
from kernels.native.packed import FORMS, Form, PackedMatrix

__all__ = ["FORMS", "Form", "NativeUnavailable", "PackedMatrix", "find", "is_available"]
