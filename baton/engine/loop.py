"""The thread that owns an engine: takes calls, steps while there is work, else sleeps."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from baton.engine.engine import Engine
from baton.engine.types import StepOutput
from baton.errors import BatonError, EngineFailed

_log = logging.getLogger(__name__)

_BEAT_SECONDS = 0.5
"""Longest sleep of an idle loop, so that `last_beat` tells a live thread from a stuck one."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Post:
    run: Callable[[], Any]
    future: Future[Any] | None


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
        self._posts: deque[_Post] = deque()
        self._wake = threading.Condition()
        self._is_stopping = False
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
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
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
        return self._enqueue(_Post(lambda: fn(self._engine, *args, **kwargs), None))

    def call(
        self, fn: Callable[Concatenate[Engine, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        """Like `post`, with a future for result or exception; `EngineFailed` after the end."""
        future: Future[R] = Future()
        if not self._enqueue(_Post(lambda: fn(self._engine, *args, **kwargs), future)):
            future.set_exception(EngineFailed("the engine loop has ended"))
        return future

    def _enqueue(self, post: _Post) -> bool:
        with self._wake:
            if self._is_over or self._is_stopping:
                return False
            self._posts.append(post)
            self._wake.notify()
            return True

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
        """Runs all posts and at most one step; False when it is time to end."""
        self.last_beat = time.monotonic()
        has_work = self._engine.has_work
        with self._wake:
            if not (self._posts or has_work or self._is_stopping):
                self._wake.wait(_BEAT_SECONDS)
            posts, self._posts = self._posts, deque()
            is_stopping = self._is_stopping
        while posts:
            self._serve(posts)
        if is_stopping:
            return False
        if self._engine.has_work:
            self._on_output(self._engine.step())
        return True

    def _serve(self, posts: deque[_Post]) -> None:
        post = posts.popleft()
        if post.future is not None and not post.future.set_running_or_notify_cancel():
            return
        try:
            result = post.run()
        except Exception as error:
            if post.future is not None:
                post.future.set_exception(error)
            elif isinstance(error, BatonError):
                _log.warning("a call to the engine was refused: %s", error)
            else:
                # Nobody else will hear of it, and the engine may be half changed.
                self._fail_all(posts)
                raise
        else:
            if post.future is not None:
                post.future.set_result(result)

    def _close(self) -> None:
        with self._wake:
            self._is_over = True
            posts, self._posts = self._posts, deque()
        self._fail_all(posts)

    def _fail_all(self, posts: deque[_Post]) -> None:
        for post in posts:
            if post.future is not None and post.future.set_running_or_notify_cancel():
                post.future.set_exception(EngineFailed("the engine loop has ended"))
