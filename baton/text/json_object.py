"""JSON objects in text that arrives character by character."""

from __future__ import annotations

import json
from enum import Enum, auto
from json import JSONDecodeError, JSONDecoder
from typing import Any

_SPACE = " \t\r\n"
# What may stand outside strings: structure, numbers, and the letters of true, false and null.
_OUTSIDE = frozenset('{}[]:," \t\r\n+-.0123456789eEtrufalsn')
_CLOSERS = {"{": "}", "[": "]"}
_DECODER = JSONDecoder()


class Progress(Enum):
    """How far an object has come."""

    OPEN = auto()
    CLOSED = auto()
    BROKEN = auto()


class ObjectScanner:
    """Finds an object's end. Breaks at once on what no JSON has; is not a full check of grammar."""

    def __init__(self) -> None:
        self._expected: list[str] = []
        self._is_in_string = False
        self._is_escaped = False

    def feed(self, character: str) -> Progress:
        """Takes the next character; none may follow an object that is closed or broken."""
        if self._is_in_string:
            return self._in_string(character)
        if character not in _OUTSIDE or (not self._expected and character != "{"):
            return Progress.BROKEN
        if character == '"':
            self._is_in_string = True
        elif character in _CLOSERS:
            self._expected.append(_CLOSERS[character])
        elif character in "}]":
            if self._expected.pop() != character:
                return Progress.BROKEN
            if not self._expected:
                return Progress.CLOSED
        return Progress.OPEN

    def _in_string(self, character: str) -> Progress:
        if character < " ":
            return Progress.BROKEN
        if self._is_escaped:
            self._is_escaped = False
        elif character == "\\":
            self._is_escaped = True
        elif character == '"':
            self._is_in_string = False
        return Progress.OPEN


def members(text: str) -> dict[str, tuple[Any, str]] | None:
    """An object's members, each as a value and as it was written; None when it is not valid."""
    try:
        whole = json.loads(text)
        found: dict[str, tuple[Any, str]] = {}
        at = _skip(text, text.index("{") + 1)
        while text[at] != "}":
            key, at = _DECODER.raw_decode(text, at)
            start = _skip(text, _skip(text, at) + 1)  # behind the colon
            value, at = _DECODER.raw_decode(text, start)
            found[key] = (value, text[start:at])
            at = _skip(text, at)
            at = _skip(text, at + 1) if text[at] == "," else at
    # Deep nesting overruns the stack of the decoder.
    except (JSONDecodeError, RecursionError, ValueError):
        return None
    return found if isinstance(whole, dict) else None


def _skip(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at
