"""The engine's thread: calls, failures, sleep and wake."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

import pytest
from fake_model import Collected, expected, greedy, make_engine, spec_of

from baton.engine.engine import Engine
from baton.engine.loop import EngineLoop
from baton.engine.types import StepOutput
from baton.errors import EngineFailed, InvalidRequest

DEADLINE_S = 10.0


@dataclass
class Watched:
    """A loop with everything that it said."""

    engine: Engine = field(default_factory=make_engine)
    collected: Collected = field(default_factory=Collected)
    failures: list[BaseException] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.loop = EngineLoop(self.engine, self._on_output, self._on_failure)

    def _on_output(self, output: StepOutput) -> None:
        with self.changed:
            self.collected.take(output)
            self.changed.notify_all()

    def _on_failure(self, error: BaseException) -> None:
        with self.changed:
            self.failures.append(error)
            self.changed.notify_all()

    def wait_until(self, claim: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(claim, DEADLINE_S), "waited too long"


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    made.loop.start()
    yield made
    made.loop.stop()


def test_posted_sequences_run_to_their_end(watched: Watched) -> None:
    specs = [spec_of(f"s{i}", range(3, 9 + i), greedy(max_tokens=5)) for i in range(4)]

    for spec in specs:
        watched.loop.post(Engine.add, spec)
    watched.wait_until(lambda: len(watched.collected.ends()) == 4)

    for spec in specs:
        assert watched.collected.tokens(spec.sequence_id) == expected(spec)[0]


def test_a_call_returns_its_result_from_the_engines_thread(watched: Watched) -> None:
    def where(engine: Engine, *, word: str) -> tuple[str, str, bool]:
        return word, threading.current_thread().name, engine is watched.engine

    assert watched.loop.call(where, word="hi").result(DEADLINE_S) == ("hi", "engine", True)


def test_a_call_that_raises_tells_its_caller_only(watched: Watched) -> None:
    def broken(engine: Engine) -> None:
        raise KeyError("mine")

    with pytest.raises(InvalidRequest):
        watched.loop.call(Engine.add, spec_of("s", [], prompt_len=0)).result(DEADLINE_S)
    with pytest.raises(KeyError):
        watched.loop.call(broken).result(DEADLINE_S)

    assert watched.loop.call(lambda engine: 7).result(DEADLINE_S) == 7
    assert watched.failures == []


def test_a_refused_post_is_logged_and_the_loop_goes_on(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        watched.loop.post(Engine.add, spec_of("s", [], prompt_len=0))
        watched.loop.call(lambda engine: None).result(DEADLINE_S)

    assert "at least 1 token" in caplog.text
    assert watched.failures == []


def test_a_cancelled_future_is_not_run(watched: Watched) -> None:
    gate = threading.Event()
    watched.loop.post(lambda engine: gate.wait(DEADLINE_S))
    ran = threading.Event()

    future = watched.loop.call(lambda engine: ran.set())
    assert future.cancel()
    gate.set()
    watched.loop.call(lambda engine: None).result(DEADLINE_S)

    assert not ran.is_set()
    with pytest.raises(CancelledError):
        future.result()


def test_a_failing_step_ends_the_loop_with_one_report(watched: Watched) -> None:
    boom = RuntimeError("the device is gone")
    watched.engine._runner._transformer.failure = boom  # type: ignore[attr-defined]

    watched.loop.post(Engine.add, spec_of("s", [3, 4]))
    watched.wait_until(lambda: bool(watched.failures))

    assert watched.failures == [boom]
    with pytest.raises(EngineFailed):
        watched.loop.call(lambda engine: None).result(DEADLINE_S)
    watched.loop.post(Engine.cancel, "s")  # nothing happens, nothing raises


def test_a_post_that_fails_by_a_defect_ends_the_loop_and_fails_the_calls_behind_it(
    watched: Watched,
) -> None:
    gate = threading.Event()
    watched.loop.post(lambda engine: gate.wait(DEADLINE_S))
    watched.loop.post(lambda engine: 1 // 0)
    behind = watched.loop.call(lambda engine: None)
    gate.set()

    with pytest.raises(EngineFailed):
        behind.result(DEADLINE_S)
    watched.wait_until(lambda: bool(watched.failures))
    assert isinstance(watched.failures[0], ZeroDivisionError)


def test_a_failing_consumer_ends_the_loop(watched: Watched) -> None:
    def refuse(output: StepOutput) -> None:
        raise OSError("nobody listens")

    watched.loop._on_output = refuse

    watched.loop.post(Engine.add, spec_of("s", [3, 4]))
    watched.wait_until(lambda: bool(watched.failures))

    assert isinstance(watched.failures[0], OSError)


def test_stop_runs_what_was_posted_before_and_refuses_the_rest() -> None:
    watched = Watched()
    watched.loop.start()
    gate, ran = threading.Event(), threading.Event()
    watched.loop.post(lambda engine: gate.wait(DEADLINE_S))
    watched.loop.post(lambda engine: ran.set())

    stopper = threading.Thread(target=watched.loop.stop)
    stopper.start()
    gate.set()
    stopper.join(DEADLINE_S)
    watched.loop.stop()

    assert ran.is_set()
    with pytest.raises(EngineFailed):
        watched.loop.call(lambda engine: None).result(0)


def test_a_loop_may_stop_itself_and_one_that_never_started() -> None:
    watched = Watched()
    watched.loop.start()
    watched.loop.call(lambda engine: watched.loop.stop()).result(DEADLINE_S)
    watched.loop.stop()

    never = Watched()
    future = never.loop.call(lambda engine: None)
    never.loop.stop()

    with pytest.raises(EngineFailed):
        future.result(0)


def test_an_idle_loop_still_beats_but_does_not_step(watched: Watched) -> None:
    before = watched.loop.last_beat
    deadline = time.monotonic() + DEADLINE_S

    while watched.loop.last_beat - before < 0.4 and time.monotonic() < deadline:
        threading.Event().wait(0.02)

    assert watched.loop.last_beat - before >= 0.4
    assert watched.collected.outputs == []
