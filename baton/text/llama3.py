"""Tool calls as Llama 3 writes them: `{"name": …, "parameters": …}`, several separated by `;`."""

from __future__ import annotations

from baton.text.call_parser import SPACE, CallParser

TAG = "<|python_tag|>"
SEPARATOR = ";"


class Llama3Parser(CallParser):
    """A reply that begins with `{` may be calls, and so may what follows the optional tag.

    With no mark around them, only objects that name a known tool are calls.
    """

    def _start(self, text: str) -> str:
        word = text.lstrip(SPACE)
        if not word or (word != TAG and TAG.startswith(word)):
            self._held = text
            return ""
        if word[0] == "{":
            self._begin(text[: len(text) - len(word)])
            return word
        self._step = self._text
        return text

    def _text(self, text: str) -> str:
        space, rest = self._until(TAG, text)
        if space is not None:
            self._opening = space + TAG
            self._step = self._lead_in
        return rest

    def _lead_in(self, text: str) -> str:
        """Behind a tag."""
        word = text.lstrip(SPACE)
        self._opening += text[: len(text) - len(word)]
        if not word:
            return ""
        if word[0] == "{":
            self._begin(self._opening)
            return word
        self._say(self._opening)
        self._opening = ""
        self._step = self._text
        return word

    def _behind_call(self, text: str) -> str:
        word = text.lstrip(SPACE + SEPARATOR)
        if word:
            self._step = self._start
        return word
