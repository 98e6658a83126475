"""What ends a benchmark."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class BenchFailed(Exception):
    """A measurement that cannot be trusted, in one sentence. Nothing is skipped in silence."""


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that fail together, with the first `BenchFailed` among their reasons."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        failed = failures.subgroup(BenchFailed)
        if failed is None:
            raise
        raise failed.exceptions[0] from None
