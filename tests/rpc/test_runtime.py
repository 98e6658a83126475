"""What a process asks of its system."""

from __future__ import annotations

import mmap
import sys
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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_that_a_file_is_behind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as weights:
        weights[0] = 1

        runtime.join_pages()

        [area] = _areas(str(path))
        assert "AnonHugePages:         0 kB" in area


def _num_large_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))


def _areas(name: str) -> list[str]:
    """What `/proc` says of each mapping of a file."""
    text = Path("/proc/self/smaps").read_text()
    return [part for part in text.split("VmFlags") if name in part]
