"""Reads one call of a tool: a JSON object with a name and arguments."""

from __future__ import annotations

import re
from collections.abc import Container

from baton.text.json_object import ObjectScanner, Progress, members

HOLD_CHARACTERS = 256
"""A call is told when it is whole and valid. One that is longer than this is told as it comes."""

ARGUMENTS = ("arguments", "parameters")
_HEAD = re.compile(
    r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]+)"\s*,\s*'
    r'"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


class CallReader:
    """Feed it characters until it is not open any more.

    A call is held until it has closed, and is out then if it is valid (`is_out`); what was held of
    one that isn't is text again (`unsaid`). A long one is let out earlier, and its arguments go on
    as the model writes them, valid or not.
    """

    def __init__(self, names: Container[str] | None = None) -> None:
        self._names = names
        """Those that a call may have; None: any."""
        self._outer = ObjectScanner()
        self._inner: ObjectScanner | None = None
        self._characters: list[str] = []
        self.name = ""
        self._arguments: list[str] = []
        self.is_out = False
        """Whether the name has been let out."""

    @property
    def unsaid(self) -> str:
        """What was read and belongs to no argument."""
        return "".join(self._characters)

    def take_arguments(self) -> str:
        """The arguments that are new."""
        arguments = "".join(self._arguments)
        self._arguments.clear()
        return arguments

    def feed(self, character: str) -> Progress:
        """Takes the next character; one that breaks the object is no part of it."""
        progress = self._outer.feed(character)
        if self._inner is not None:
            if progress is Progress.OPEN:
                self._arguments.append(character)
                if self._inner.feed(character) is Progress.CLOSED:
                    self._inner = None
            return progress
        if progress is Progress.BROKEN:
            return progress
        self._characters.append(character)
        if self.is_out:
            return progress
        if progress is Progress.CLOSED:
            self._close()
        elif len(self._characters) == HOLD_CHARACTERS:
            self._let_out()
        return progress

    @property
    def is_in_arguments(self) -> bool:
        """Whether the next character belongs to arguments that have been let out."""
        return self._inner is not None

    def _close(self) -> None:
        found = members(self.unsaid)
        if found is None or "name" not in found:
            return
        name = found["name"][0]
        value, written = next((found[key] for key in ARGUMENTS if key in found), (None, ""))
        if not isinstance(name, str) or not isinstance(value, dict) or not self._may_be(name):
            return
        self.name, self.is_out = name, True
        self._arguments.append(written)
        self._characters.clear()

    def _let_out(self) -> None:
        """Looks once, at a fixed length, so that the cuts of the text make no difference."""
        head = _HEAD.match(self.unsaid)
        if head is None or not self._may_be(head[1]):
            return
        arguments = self.unsaid[head.end() :]
        inner = ObjectScanner()
        if any(inner.feed(character) is not Progress.OPEN for character in arguments):
            return
        self.name, self.is_out, self._inner = head[1], True, inner
        self._arguments.append(arguments)
        self._characters.clear()

    def _may_be(self, name: str) -> bool:
        return bool(name) and (self._names is None or name in self._names)
