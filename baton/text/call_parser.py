"""What parsers of tool calls have in common: text goes out, calls are read, none is lost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container

from baton.text.call_reader import CallReader
from baton.text.json_object import Progress
from baton.text.reply import CallDelta, Delta, NewId, TextDelta, new_call_id, partial_len

SPACE = " \t\r\n"


class CallParser(ABC):
    """A pure state machine. Space around calls is no text; what turns out to be no call is.

    Each step takes a part of the text and returns the rest, or holds all of it.
    """

    def __init__(
        self,
        names: Container[str] | None = None,
        max_calls: int | None = None,
        new_id: NewId = new_call_id,
    ) -> None:
        self._names = names
        self._max_calls = max_calls
        self._new_id = new_id
        self._step: Callable[[str], str] = self._start
        self._held = ""
        self._opening = ""
        """What led into the call that is read."""
        self._reader = CallReader(names)
        self._num_calls = 0
        self._is_told = False
        """Whether the call that is read has its id and name out."""
        self._is_behind_call = False
        self._told: list[Delta] = []

    def push(self, text: str) -> list[Delta]:
        """See `Parser`."""
        rest, self._held = self._held + text, ""
        while rest:
            rest = self._step(rest)
        return self._taken()

    def flush(self) -> list[Delta]:
        """See `Parser`."""
        if self._step == self._call:
            # Arguments that have been let out are told already; they just end here.
            if not self._reader.is_in_arguments:
                self._give_back()
        elif self._step == self._spoilt:
            self._tell_arguments(self._held)
        else:
            self._say(self._opening + self._held)
        self._held = self._opening = ""
        self._step = self._text
        return self._taken()

    def _start(self, text: str) -> str:
        self._step = self._text
        return text

    @abstractmethod
    def _text(self, text: str) -> str:
        """Takes text outside of calls."""

    @abstractmethod
    def _behind_call(self, text: str) -> str:
        """Takes text behind the last character of a call."""

    def _spoilt(self, text: str) -> str:
        """Arguments that have been let out and are no JSON go on to the end."""
        self._tell_arguments(text)
        return ""

    def _until(self, marker: str, text: str) -> tuple[str | None, str]:
        """The text before a marker (told, without the space at its end), that space, and the rest.

        None as the first while the marker has not come: then all that may belong to it is held.
        """
        before, found, rest = text.partition(marker)
        if not found:
            before = text[: len(text) - partial_len(text, marker)]
        words = before.rstrip(SPACE)
        self._say(words)
        if not found:
            self._held = text[len(words) :]
            return None, ""
        return before[len(words) :], rest

    def _begin(self, opening: str) -> None:
        self._opening = opening
        self._reader = CallReader(self._names)
        self._is_told = False
        self._step = self._call

    def _call(self, text: str) -> str:
        reader = self._reader
        for position, character in enumerate(text):
            progress = reader.feed(character)
            if progress is Progress.CLOSED:
                self._close()
                return text[position + 1 :]
            if progress is Progress.BROKEN:
                self._break()
                # The character may be the first of a marker.
                return text[position:]
        if reader.is_out:
            self._tell_call()
        return ""

    def _close(self) -> None:
        if self._reader.is_out:
            self._tell_call()
            self._end_call(self._behind_call)
        else:
            self._step = self._text
            self._give_back()

    def _break(self) -> None:
        if self._reader.is_in_arguments:
            self._tell_call()
            self._end_call(self._spoilt)
        else:
            self._step = self._text
            self._give_back()

    def _end_call(self, step: Callable[[str], str]) -> None:
        self._num_calls += 1
        self._is_behind_call = True
        self._opening = ""
        self._step = step

    def _give_back(self) -> None:
        """Text that was taken for a call, or what stands behind the arguments of one."""
        if self._reader.is_out:
            self._tell_call()
            self._end_call(self._step)
        self._say(self._opening + self._reader.unsaid)
        self._opening = ""

    def _tell_call(self) -> None:
        arguments = self._reader.take_arguments()
        if self._max_calls is not None and self._num_calls >= self._max_calls:
            return
        if not self._is_told:
            self._is_told = True
            delta = CallDelta(self._num_calls, arguments, self._new_id(), self._reader.name)
            self._told.append(delta)
        elif arguments:
            self._told.append(CallDelta(self._num_calls, arguments))

    def _tell_arguments(self, arguments: str) -> None:
        index = self._num_calls - 1
        if arguments and (self._max_calls is None or index < self._max_calls):
            self._told.append(CallDelta(index, arguments))

    def _say(self, text: str) -> None:
        if self._is_behind_call:
            text = text.lstrip(SPACE)
        if text:
            self._is_behind_call = False
            self._told.append(TextDelta(text))

    def _taken(self) -> list[Delta]:
        told, self._told = self._told, []
        return told
