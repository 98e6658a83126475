"""Turns tokens into text as they come, without ever showing half a character."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baton.text.model_text import ModelText

REPLACEMENT = "\ufffd"

MAX_HELD_BYTES = 64
"""Byte tokens in a row after which complete characters go out, though the run may go on."""

MAX_PENDING = 64
"""Tokens that may wait for the end of a character before the window is cut by force."""


class IncrementalDetokenizer:
    """Decodes one sample's tokens; what comes out in pieces is what decoding all at once gives.

    A decoder may treat the first token specially (leading space) and may join tokens into one
    character. So a window is kept: tokens whose text went out, as context, and those that wait.
    Its size has a limit, hence the cost of a token has one, too.

    One exception to the promise: where bytes are tokens of their own (`<0xE2>`), the tokenizers
    library turns a whole run of them into replacement characters if any byte is wrong. A run is
    held until it ends, but not beyond 64 bytes: a longer one goes out character by character, and
    what is out stays as it was.
    """

    def __init__(self, text: ModelText, skip_special_tokens: bool = True) -> None:
        self._text = text
        self._keeps_special = not skip_special_tokens
        self._window: list[int] = []
        self._read = 0
        """Tokens at the window's start that are context: their text is out."""
        self._shown = 0
        """Characters of the window's text that are out."""
        self._run = bytearray()
        """The byte tokens at the window's end."""

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that the new tokens complete; may be empty."""
        before = len(self._window)
        for token_id in token_ids:
            if self._text.is_silent(token_id, self._keeps_special):
                continue
            self._window.append(token_id)
            byte = self._text.byte_of(token_id)
            if byte is None:
                self._run.clear()
            else:
                self._run.append(byte)
        end = len(self._window) - self._num_held()
        if len(self._window) == before or end <= self._read:
            return ""
        return self._take(end)

    def flush(self) -> str:
        """The text of what waits, broken characters replaced; for the end of a sample."""
        rest = self._decode(self._window)[self._shown :]
        self._window, self._read, self._shown = [], 0, 0
        self._run.clear()
        return rest

    def _num_held(self) -> int:
        """Byte tokens at the end that are not to be decoded yet."""
        run = len(self._run)
        return run if run <= MAX_HELD_BYTES else _unfinished(self._run[-3:])

    def _take(self, end: int) -> str:
        decoded = self._decode(self._window[:end])
        # A character that still lacks bytes decodes to one replacement character, the last.
        is_open = decoded.endswith(REPLACEMENT) and not self._text.has_byte_tokens
        until = len(decoded) - 1 if is_open else len(decoded)
        if until <= self._shown:
            fresh = ""
        else:
            fresh, self._shown = decoded[self._shown : until], until
            if not is_open:
                self._rebase(end)
        if is_open and end - self._read > MAX_PENDING:
            self._cut(end, decoded)
        return fresh

    def _rebase(self, end: int) -> None:
        """Forgets the old context; what has just gone out is the new one."""
        del self._window[: self._read]
        self._read = end - self._read
        self._shown = len(self._decode(self._window[: self._read]))

    def _cut(self, end: int, decoded: str) -> None:
        """Starts the window anew at a border that the decoder does not see across."""
        for border in range(end - 1, max(end - 5, 0), -1):
            head, tail = self._decode(self._window[:border]), self._decode(self._window[border:end])
            if head + tail == decoded:
                del self._window[:border]
                self._read, self._shown = 0, self._shown - len(head)
                return

    def _decode(self, token_ids: list[int]) -> str:
        return self._text.decode(token_ids, skip_special_tokens=not self._keeps_special)


def _unfinished(tail: bytearray) -> int:
    """Bytes at the end that begin a UTF-8 character without completing it."""
    for length in range(1, len(tail) + 1):
        lead = tail[-length]
        if lead >= 0xC0:
            needed = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return length if length < needed else 0
        if lead < 0x80:
            break
    return 0
