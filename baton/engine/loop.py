"""The thread that owns an engine: takes calls, steps while there is work, else sleeps."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeVar

from baton.engine.engine import Engine
from baton.engine.types import StepOutput
from baton.errors import BatonError, EngineFailed

_log = logging.getLogger(__name__)

_BEAT_SECONDS = 0.5
"""Longest sleep of an idle loop, so that `last_beat` tells a live thread from a stuck one."""

P = ParamSpec("P")
R = TypeVar("R")
_Post = tuple[Callable[[], Any], Future[Any] | None]
"""What is to run, and who waits for its result."""


class EngineLoop:
    """Runs an engine on a thread of its own. Others reach it through `post` and `call` only.

    `on_output` gets each step's news, on the engine's thread. A failure of a step, of `on_output`
    or of a post that raises anything but a `BatonError` ends the loop after one call of
    `on_failure`.
    """

    def __init__(
        self,
        engine: Engine,
        on_output: Callable[[StepOutput], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._engine = engine
        self._on_output = on_output
        self._on_failure = on_failure
        self._posts: SimpleQueue[_Post] = SimpleQueue()
        self._door = threading.Lock()
        """Held to post, and to close: nothing is posted behind the end."""
        self._is_closed = False
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.last_beat = time.monotonic()
        """Monotonic seconds of the loop's last turn; a step in progress is not a turn."""

    def start(self) -> None:
        """Starts the thread."""
        self.last_beat = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Runs what was posted before, then ends the thread and joins it. Repeats do nothing."""
        with self._door:
            self._is_closed = True
            self._posts.put((self._end, None))
        if not self._thread.ident:
            self._close()
        elif threading.current_thread() is not self._thread:
            self._thread.join()

    def post(
        self, fn: Callable[Concatenate[Engine, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> bool:
        """Runs `fn(engine, ...)` on the engine's thread before its next step.

        Not after the end: returns False then.
        """
        return self._enqueue(partial(fn, self._engine, *args, **kwargs), None)

    def call(
        self, fn: Callable[Concatenate[Engine, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Like `post`, with a future for result or exception; `EngineFailed` after the end."""
        future: Future[R] = Future()
        if not self._enqueue(partial(fn, self._engine, *args, **kwargs), future):
            future.set_exception(EngineFailed("the engine loop has ended"))
        return future

    def _enqueue(self, run: Callable[[], Any], future: Future[Any] | None) -> bool:
        with self._door:
            if not self._is_closed:
                self._posts.put((run, future))
            return not self._is_closed

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            _log.critical("the engine loop failed", exc_info=error)
            self._close()
            self._on_failure(error)
        else:
            self._close()

    def _turn(self) -> bool:
        """Runs the posts that have come and at most one step; False when it is time to end."""
        self.last_beat = time.monotonic()
        if not self._engine.has_work:
            self._serve_next(_BEAT_SECONDS)
        for _ in range(self._posts.qsize()):
            self._serve_next()
        if self._is_over:
            return False
        if self._engine.has_work:
            self._on_output(self._engine.step())
        return True

    def _serve_next(self, wait_s: float = 0.0) -> None:
        """Runs a post, if one comes in time."""
        try:
            run, future = self._posts.get(timeout=wait_s)
        except Empty:
            return
        if future is not None and not future.set_running_or_notify_cancel():
            return
        try:
            result = run()
        except Exception as error:
            if future is not None:
                future.set_exception(error)
            elif isinstance(error, BatonError):
                _log.warning("a call to the engine was refused: %s", error)
            else:
                # Nobody else will hear of it, and the engine may be half changed.
                raise
        else:
            if future is not None:
                future.set_result(result)

    def _end(self) -> None:
        self._is_over = True

    def _close(self) -> None:
        """Fails whoever waits for a post that will not run."""
        with self._door:
            self._is_closed = True
        while not self._posts.empty():
            _, future = self._posts.get()
            if future is not None and future.set_running_or_notify_cancel():
                future.set_exception(EngineFailed("the engine loop has ended"))
