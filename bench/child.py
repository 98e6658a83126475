"""A Python process of ours to measure in, spoken to through a pipe."""

from __future__ import annotations

import asyncio
import importlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

from bench.failure import BenchFailed

_END_S = 5.0


class Child:
    """Runs a module's function in a fresh interpreter until the pipe closes.

    Named, not passed: what it loads (torch) is not loaded here, where clients watch the clock.
    """

    def __init__(self, module: str, function: str, *arguments: object) -> None:
        """The function is called with the pipe and the arguments."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # A daemon: it ends with us even where nobody gets to call `__aexit__`.
        self._process = context.Process(
            target=_start, args=(module, function, theirs, *arguments), daemon=True
        )
        self._process.start()
        theirs.close()

    async def ask(self, message: object) -> Any:
        """Sends a message and waits for the answer. Raises `BenchFailed` where it failed there."""
        self._pipe.send(message)
        try:
            kind, answer = await asyncio.to_thread(self._pipe.recv)
        except (EOFError, OSError) as error:
            raise BenchFailed("a measuring process ended in the middle.") from error
        if kind == "error":
            raise BenchFailed(f"a measuring process failed: {answer}")
        return answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pipe.close()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def answer_all(pipe: Connection, answer: Callable[[Any], object]) -> None:
    """Answers messages one by one until the pipe closes."""
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(("answer", answer(message)))
        except Exception as error:
            # The asker raises it: a failure here must end the whole run.
            pipe.send(("error", repr(error)))


def _start(module: str, function: str, pipe: Connection, *arguments: object) -> None:
    # Ctrl-C reaches the whole group; the parent closes the pipe when it is done with us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    getattr(importlib.import_module(module), function)(pipe, *arguments)
