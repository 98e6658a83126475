"""What nobody waits for, done when what somebody waits for is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple

Args = TypeVarTuple("Args")


def later(call: Callable[[*Args], object], *args: *Args) -> None:
    """Calls two turns of the loop from now: in the first, those who were just woken write."""
    loop = asyncio.get_running_loop()
    loop.call_soon(loop.call_soon, call, *args)
