"""What a process asks of its interpreter, its event loop and its system."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import resource
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

YOUNG_OBJECTS = 20_000
"""New objects, less those gone, until the garbage collector looks through them."""
SETTLED_SECONDS = 5.0
"""How long after a process is ready its heap has its shape: by then the first requests are over."""
LARGE_PAGE = 2 << 20
MAX_JOINED_BYTES = 256 << 20
"""A heap of code and state is smaller; weights and KV blocks are none of this module's."""

_MADV_COLLAPSE = 25
"""Linux 6.1's; Python's mmap module does not know it."""


async def settle_memory() -> None:
    """What is there by now stays: the garbage collector looks at what came since, and less often.

    A request makes some hundred objects that go with it. Looking for cycles among them at the usual
    threshold, 700, took 5 % of a gateway's time.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
    if sys.platform == "linux":
        asyncio.get_running_loop().call_later(SETTLED_SECONDS, _join_pages_aside)


def _join_pages_aside() -> None:
    threading.Thread(target=join_pages, name="join-pages", daemon=True).start()


def join_pages() -> int:
    """Has Linux hold the heap in pages of 2 MB, as far as it can; returns how many it joined.

    A request that comes after a pause finds caches cold. Then each small page costs a walk through
    two page tables, on a virtual machine through four times as many, none of which is cached.
    """
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    pages = list(_heap_pages())[: MAX_JOINED_BYTES // LARGE_PAGE]
    # One that is empty or pinned is refused, and so are all by a kernel that can't.
    return sum(madvise(page, LARGE_PAGE, _MADV_COLLAPSE) == 0 for page in pages)


def _heap_pages() -> Iterator[int]:
    """Addresses of the places for a large page in private memory that no file is behind."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
            continue
        start, end = (int(address, 16) for address in span.split("-"))
        if end - start <= MAX_JOINED_BYTES:
            yield from range(-(-start // LARGE_PAGE) * LARGE_PAGE, end - LARGE_PAGE + 1, LARGE_PAGE)


def allow_connections() -> None:
    """As many as the system lets a process have; the usual limit of 1,024 is soft."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: it costs about half; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
