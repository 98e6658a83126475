"""What a reply is made of once it is parsed: text, reasoning, and calls of tools."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of what the model says."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of one call. The first of a call brings its id and name, the others only arguments."""

    index: int
    arguments: str
    """A piece of a JSON object, as the model wrote it."""
    call_id: str = ""
    name: str = ""


Delta = TextDelta | ReasoningDelta | CallDelta
NewId = Callable[[], str]


class Parser(Protocol):
    """Takes a reply's text in pieces of any cut; what comes out does not depend on the cuts."""

    def push(self, text: str) -> list[Delta]:
        """What is certain by now."""

    def flush(self) -> list[Delta]:
        """What was kept back; for the end of a reply."""


class Chain:
    """Reasoning first; what is text behind it goes through the parser of calls."""

    def __init__(self, first: Parser, second: Parser) -> None:
        self._first = first
        self._second = second

    def push(self, text: str) -> list[Delta]:
        """See `Parser`."""
        return self._through(self._first.push(text))

    def flush(self) -> list[Delta]:
        """See `Parser`."""
        return self._through(self._first.flush()) + self._second.flush()

    def _through(self, deltas: list[Delta]) -> list[Delta]:
        told: list[Delta] = []
        for delta in deltas:
            told += self._second.push(delta.text) if isinstance(delta, TextDelta) else [delta]
        return told


def new_call_id() -> str:
    """An id in OpenAI's form."""
    return f"call_{secrets.token_hex(12)}"


def partial_len(text: str, marker: str) -> int:
    """Length of the longest end of `text` with which a `marker` could begin, and does not end."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
