"""An engine's thread and its process's event loop, joined by two queues."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from baton.engine.engine import Engine
from baton.engine.loop import EngineLoop
from baton.engine.types import SequenceSpec, StepOutput
from baton.guides import GuideMatchers

T = TypeVar("T")

BEAT_LIMIT_S = 30.0
"""A step takes milliseconds to seconds; an engine silent for longer is not able to serve."""


class EngineHost:
    """Runs an engine and brings its news to the event loop. Made and used on that loop."""

    def __init__(
        self, engine: Engine, warm_up: Callable[[Engine], None], matchers: GuideMatchers
    ) -> None:
        self.engine = engine
        self._warm_up = warm_up
        self._matchers = matchers
        self._loop = asyncio.get_running_loop()
        self._failure_hooks: list[Callable[[BaseException], None]] = []
        self._sinks: list[Callable[[StepOutput], None]] = []
        self._late_sinks: list[Callable[[StepOutput], None]] = []
        self._on_its_way: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._is_woken = False
        self._engine_loop = EngineLoop(engine, partial(self.reply, self._deliver), self._fail)

    async def start(self) -> None:
        """Starts the engine's thread and warms it up."""
        self._engine_loop.start()
        await self.call(self._warm_up)

    async def stop(self) -> None:
        """Ends the engine's thread behind the step it is in."""
        self._matchers.close()
        await asyncio.to_thread(self._engine_loop.stop)

    async def guided(self, spec: SequenceSpec) -> SequenceSpec:
        """The spec as `Engine.add` wants it: with a matcher, if it has a guide.

        Raises `InvalidRequest` for a guide that cannot be used.
        """
        guide = spec.sampling.guide
        if guide is None:
            return spec
        matcher = await self._matchers.matcher(guide, tuple(spec.token_ids[spec.prompt_len :]))
        return replace(spec, matcher=matcher)

    def subscribe(self, sink: Callable[[StepOutput], None], *, is_late: bool = False) -> None:
        """Has `sink` called on the event loop with every step's output, in order.

        A late one is called when the tokens that came of the step are on their way: it books what
        nobody waits for.
        """
        (self._late_sinks if is_late else self._sinks).append(sink)

    def on_failure(self, hook: Callable[[BaseException], None]) -> None:
        """Has `hook` called on the event loop when the engine breaks down for good."""
        self._failure_hooks.append(hook)

    def post(self, command: Callable[..., Any], *args: Any) -> bool:
        """Runs `command(engine, *args)` on the engine's thread before its next step.

        False: it will not, the engine has ended.
        """
        return self._engine_loop.post(command, *args)

    def reply(self, receive: Callable[[T], None], value: T) -> None:
        """From the engine's thread: `receive(value)` on the event loop, in order with the news.

        Waking the loop is a system call that hands the interpreter over: while one is pending, more
        just join the queue.
        """
        self._on_its_way.append((receive, value))
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._take_in)

    async def call(self, command: Callable[..., T], *args: Any) -> T:
        """As `post`, and waits for what it returns or raises."""
        return await asyncio.wrap_future(self._engine_loop.call(command, *args))

    def is_able(self) -> bool:
        """Whether the engine's thread has turned lately."""
        return time.monotonic() - self._engine_loop.last_beat < BEAT_LIMIT_S

    def _take_in(self) -> None:
        # Lowered first: what is appended from here on wakes the loop again.
        self._is_woken = False
        for _ in range(len(self._on_its_way)):
            receive, value = self._on_its_way.popleft()
            try:
                receive(value)
            except Exception as error:
                told = {"message": "taking an engine's news failed", "exception": error}
                self._loop.call_exception_handler(told)

    def _deliver(self, output: StepOutput) -> None:
        for sink in self._sinks:
            sink(output)
        # The writers of streams, which the sinks have woken, run in between.
        self._loop.call_soon(self._loop.call_soon, self._deliver_late, output)

    def _deliver_late(self, output: StepOutput) -> None:
        for sink in self._late_sinks:
            sink(output)

    def _fail(self, error: BaseException) -> None:
        for hook in self._failure_hooks:
            self._loop.call_soon_threadsafe(hook, error)
