"""Streaming one answer, and the figures behind it."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from baton.cli.answer import Answer, stream_answer, summarize
from baton.client import Chunk, Final, SampleSummary
from baton.errors import WorkerLost
from baton.request import FinishReason, PrefillMode, SequenceTimings


class Events:
    """Stands for a client's events: gives these in turn, and notes that it was closed."""

    def __init__(self, *events: Chunk | Final | Exception) -> None:
        self._events = iter(events)
        self.is_closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        event = next(self._events)
        if isinstance(event, Exception):
            raise event
        return event

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.is_closed = True


def chunk(text: str) -> Chunk:
    return Chunk(0, text, (), (), None, "", None)


def final(mode: PrefillMode = PrefillMode.REMOTE, num_output_tokens: int = 3) -> Final:
    timings = SequenceTimings(
        prefill_mode=mode, prefill_worker_id="prefill-0", transport="shm", handoff_bytes=1_500_000
    )
    sample = SampleSummary(0, FinishReason.LENGTH, num_output_tokens, timings, "decode-0", 0)
    return Final("r", "m", 7, num_output_tokens, 0, (sample,), 0, 0, 0, 0, 1, "")


async def test_pieces_are_written_as_they_come_and_joined():
    written: list[str] = []
    events = Events(chunk("A pro"), chunk("cess."), final())

    answer = await stream_answer(events, written.append)

    assert written == ["A pro", "cess."]
    assert answer.text == "A process."
    assert 0 < answer.first_token_s <= answer.last_token_s
    assert events.is_closed


async def test_failure_in_the_middle_is_raised_and_the_request_closed():
    events = Events(chunk("A"), WorkerLost("decode-0 went away."))

    with pytest.raises(WorkerLost):
        await stream_answer(events, lambda text: None)

    assert events.is_closed


def test_figures_are_those_of_the_clock():
    answer = Answer("text", first_token_s=0.1, last_token_s=0.5, final=final(num_output_tokens=5))

    assert answer.between_tokens_s == pytest.approx(0.1)
    assert answer.tokens_per_second == pytest.approx(10.0)


def test_single_token_has_no_time_between_tokens():
    assert Answer("t", 0.1, 0.1, final(num_output_tokens=1)).between_tokens_s == 0.0


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (PrefillMode.REMOTE, "computed by prefill-0, handed over by shm (1.50 MB)"),
        (PrefillMode.LOCAL, "computed by decode-0 itself"),
        (PrefillMode.FALLBACK, "because prefill-0 did not deliver"),
    ],
)
def test_summary_says_who_computed_and_who_decoded(mode, words):
    console = Console(file=StringIO(), width=120)

    console.print(summarize(Answer("text", 0.1, 0.3, final(mode))))

    output = console.file.getvalue()
    assert words in output
    assert "decoded by decode-0" in output
    assert "7 in, 3 out, cut at its limit" in output
