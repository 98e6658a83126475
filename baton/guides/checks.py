"""What a gateway refuses: guides that cannot be used, or cost too much."""

from __future__ import annotations

from baton.guides.compiler import Compiled, GuideCompiler
from baton.guides.shelf import Shelf
from baton.request import Guide

MAX_SOURCE_BYTES = 256 << 10
COMPILE_LIMIT_S = 1.0
"""Processor time. A schema of 1,000 properties takes a tenth of it."""
MASK_LIMIT_S = 0.05
"""Processor time of the first mask. Typical guides take 2 ms, vocabularies of 128,000 included."""
NUM_KEPT = 1024


class GuideChecks:
    """Verdicts on guides for one model; the last ones are kept, without what was compiled."""

    def __init__(self, compiler: GuideCompiler) -> None:
        self._shelf = Shelf(lambda guide: _verdict(compiler.compile(guide)), NUM_KEPT)

    async def fault(self, guide: Guide) -> str:
        """Why a guide is refused, behind the name of its field; empty: it is fine.

        Raises `Overloaded` where too many new guides wait to be compiled.
        """
        num_bytes = len(guide.source.encode("utf-8", "surrogatepass"))
        if num_bytes > MAX_SOURCE_BYTES:
            return f"has {num_bytes:,} bytes; at most {MAX_SOURCE_BYTES:,} are allowed"
        if not guide.source.strip():
            return "is empty"
        return await self._shelf.get(guide)

    def __len__(self) -> int:
        return len(self._shelf)

    def close(self) -> None:
        """Ends its threads."""
        self._shelf.close()


def _verdict(compiled: Compiled) -> str:
    """Limits in time are the gateway's alone: what it let pass, a slower worker takes too."""
    if compiled.fault:
        return compiled.fault
    if compiled.compile_s > COMPILE_LIMIT_S:
        return (
            f"is too complex: compiling it took {compiled.compile_s:.1f} s of processor time, the "
            f"limit is {COMPILE_LIMIT_S:g} s"
        )
    if compiled.mask_s > MASK_LIMIT_S:
        return (
            f"is too complex: finding what may come first took {compiled.mask_s * 1e3:.0f} ms of "
            f"processor time, the limit is {MASK_LIMIT_S * 1e3:g} ms"
        )
    return ""
