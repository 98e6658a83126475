"""What a process asks of its system."""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import pytest

from baton.rpc import runtime

SIZE = 8 << 20
HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not HUGE.exists(), reason="needs a Linux with huge pages")
def test_a_heap_of_large_pages_holds_what_it_held() -> None:
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as heap:
        content = bytes(range(256)) * (SIZE // 256)
        heap.write(content)

        num_joined = runtime.join_pages()

        assert heap[:] == content
        # Kernels before 6.1 refuse, and so does one without large pages to spare.
        assert not num_joined or _num_large_bytes() > 0


@pytest.mark.skipif(not HUGE.exists(), reason="needs a Linux with huge pages")
def test_what_is_larger_than_a_heap_is_left_alone() -> None:
    size = 2 * runtime.MAX_JOINED_BYTES
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as weights:
        for at in range(0, SIZE, 4096):
            weights[at] = 1

        address = ctypes.addressof(ctypes.c_char.from_buffer(weights))

        runtime.join_pages()

        assert "AnonHugePages:         0 kB" in _area(address)


def _num_large_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))


def _area(address: int) -> str:
    """What `/proc` says of the mapping that contains an address."""
    for part in Path("/proc/self/smaps").read_text().split("VmFlags"):
        found = re.search(r"^([0-9a-f]+)-([0-9a-f]+) ", part, re.MULTILINE)
        if found and int(found[1], 16) <= address < int(found[2], 16):
            return part
    raise AssertionError("no such mapping")
