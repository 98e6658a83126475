"""What a process asks of its interpreter, its event loop and its system."""

from __future__ import annotations

import asyncio
import gc
import resource
from collections.abc import Callable

YOUNG_OBJECTS = 20_000
"""New objects, less those gone, until the garbage collector looks through them."""


async def settle_memory() -> None:
    """What is there by now stays: the garbage collector looks at what came since, and less often.

    A request makes some hundred objects that go with it. Looking for cycles among them at the usual
    threshold, 700, took 5 % of a gateway's time.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)


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
