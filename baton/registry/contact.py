"""Whether Redis is there, and for how long it has not been."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import structlog

from baton.registry.client import FAILURES
from baton.registry.timing import Timing, retry_pause

log = structlog.stdlib.get_logger(__name__)


async def end(task: asyncio.Task[None]) -> None:
    """Cancels a task until it is done, should one cancellation be swallowed on its way."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)


class Contact:
    """Whether Redis answers, since when, and for how long it has not; logs one line per change.

    One owner reports every attempt by `made` or `lost`.
    """

    def __init__(
        self, owner: str, timing: Timing, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.owner = owner
        self.is_connected = False
        self.num_outages = 0
        self._timing = timing
        self._clock = clock
        self._last_contact = clock()
        self._connected_since = clock()
        self._num_failures = 0
        self._attempted = asyncio.Event()

    @property
    def staleness_s(self) -> float:
        """Seconds since Redis last answered, or since the start when it never did."""
        return self._clock() - self._last_contact

    @property
    def unbroken_s(self) -> float:
        """Seconds for which every attempt has been answered; 0 while Redis is away."""
        return self._clock() - self._connected_since if self.is_connected else 0.0

    def made(self) -> None:
        """Redis answered."""
        now = self._clock()
        if not self.is_connected:
            self._connected_since = now
            if self._num_failures:
                away_s = round(now - self._last_contact, 3)
                log.info("redis is back", owner=self.owner, away_s=away_s)
        self.is_connected = True
        self._last_contact = now
        self._num_failures = 0
        self._attempted.set()

    def lost(self, error: BaseException) -> None:
        """Redis did not answer, or refused."""
        if not self._num_failures:
            self.num_outages += 1
            reason = f"{type(error).__name__}: {error}"
            log.warning(
                "redis is away; going on without it",
                owner=self.owner,
                reason=reason,
                exc_info=None if isinstance(error, FAILURES) else error,
            )
        self.is_connected = False
        self._num_failures += 1
        self._attempted.set()

    def restart(self) -> None:
        """Redis answers, but has forgotten everything: counts as a new beginning."""
        self._connected_since = self._clock()

    async def attempted(self) -> None:
        """Returns once the first attempt has ended, well or not."""
        await self._attempted.wait()

    async def pause(self) -> None:
        """Waits before the next attempt; up to half as long, so that replicas spread."""
        await asyncio.sleep(
            retry_pause(self._timing, max(1, self._num_failures)) * random.uniform(0.5, 1.0)
        )
