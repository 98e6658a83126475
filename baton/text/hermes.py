"""Tool calls of Hermes and Qwen: `<tool_call>{"name": …, "arguments": …}</tool_call>`."""

from __future__ import annotations

from baton.text.call_parser import SPACE, CallParser
from baton.text.reply import partial_len

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


class HermesParser(CallParser):
    """Text and calls in any order; a missing closing tag is forgiven."""

    def _text(self, text: str) -> str:
        space, rest = self._until(OPEN, text)
        if space is not None:
            self._opening = space + OPEN
            self._step = self._lead_in
        return rest

    def _lead_in(self, text: str) -> str:
        word = text.lstrip(SPACE)
        self._opening += text[: len(text) - len(word)]
        if word:
            self._begin(self._opening)
        return word

    def _behind_call(self, text: str) -> str:
        word = text.lstrip(SPACE)
        if word.startswith(CLOSE):
            self._step = self._text
            return word[len(CLOSE) :]
        if CLOSE.startswith(word):
            self._held = text
            return ""
        self._step = self._text
        return text

    def _spoilt(self, text: str) -> str:
        before, tag, rest = text.partition(CLOSE)
        if tag:
            self._step = self._text
        else:
            before = text[: len(text) - partial_len(text, CLOSE)]
            self._held = text[len(before) :]
        self._tell_arguments(before)
        return rest
