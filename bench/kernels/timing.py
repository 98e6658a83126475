"""How long a call takes when none of its data is in a cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from bench.kernels.job import Call

_CALLS_PER_GRAPH = 20


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to measure."""

    seconds: float
    """Of each call, without what flushing takes: enough."""
    wall_seconds: float
    """Of all calls and flushes together: too much, however short the calls are."""
    least: int
    """Repetitions at least."""
    most: int
    flush_bytes: int = 128 * 2**20
    """Written before each call: more than the last cache of a CPU or a GPU holds."""


class Stopwatch:
    """Times calls on a device."""

    def __init__(self, device: str, budget: Budget) -> None:
        self.device = device
        self._budget = budget
        self._flushed = torch.ones(budget.flush_bytes, dtype=torch.uint8, device=device)

    def measure(self, calls: Sequence[Call], *, in_graph: bool) -> list[float]:
        """Seconds of each call: medians. They take turns, so that noise meets all of them."""
        if self.device == "cpu":
            return self._alternate(calls, self._by_clock)
        if in_graph:
            return [self._in_graph(call) for call in calls]
        return self._alternate(calls, self._by_events)

    def _alternate(self, calls: Sequence[Call], one: Callable[[Call], float]) -> list[float]:
        if not calls:
            return []
        for call in calls:
            call()
        times: list[list[float]] = [[] for _ in calls]
        end = time.perf_counter() + self._budget.wall_seconds
        while len(times[0]) < self._budget.most:
            for call, found in zip(calls, times, strict=True):
                found.append(one(call))
            is_enough = len(times[0]) >= self._budget.least
            is_long = min(map(sum, times)) > self._budget.seconds or time.perf_counter() > end
            if is_enough and is_long:
                break
        return [median(found) for found in times]

    def _by_clock(self, call: Call) -> float:
        self._flushed.fill_(1)
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    def _by_events(self, call: Call) -> float:
        """Wall time from an idle GPU to an idle GPU: for calls that read results on the host."""
        self._flushed.fill_(1)
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    def _in_graph(self, call: Call) -> float:
        """Per call in a CUDA graph of many, less what a graph of the flushes alone takes."""
        with_call = self._replay(call)
        return max(0.0, with_call - self._replay(lambda: None)) / _CALLS_PER_GRAPH

    def _replay(self, call: Call) -> float:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles, allocates
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(_CALLS_PER_GRAPH):
                self._flushed.fill_(1)
                call()
        graph.replay()
        start, end = (_event() for _ in range(2))
        times: list[float] = []
        for _ in range(self._budget.least):
            torch.cuda.synchronize()
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return median(times)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
