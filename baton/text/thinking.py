"""Splits `<think>reasoning</think>answer`, as Qwen3 and its kin write it."""

from __future__ import annotations

from baton.text.reply import Delta, ReasoningDelta, TextDelta, partial_len

OPEN = "<think>"
CLOSE = "</think>"
SPACE = " \t\r\n"


class ThinkParser:
    """A pure state machine. Space around the tags belongs to neither side.

    A reply that does not begin with the tag, and whose prompt did not, is all text.
    """

    def __init__(self, is_open: bool = False) -> None:
        self._step = self._lead_in if is_open else self._start
        self._held = ""

    @property
    def is_thinking(self) -> bool:
        """Whether the reasoning has begun and not ended."""
        return self._step in (self._lead_in, self._think)

    @property
    def has_ended(self) -> bool:
        """Whether all that comes is text."""
        return self._step in (self._lead_out, self._answer)

    def push(self, text: str) -> list[Delta]:
        """See `Parser`."""
        rest, self._held = self._held + text, ""
        told: list[Delta] = []
        while rest:
            rest = self._step(rest, told)
        return told

    def flush(self) -> list[Delta]:
        """See `Parser`."""
        held, self._held = self._held, ""
        if self._step == self._start:
            return [TextDelta(held)] if held else []
        if not self.is_thinking:
            return []
        held = held.rstrip(SPACE)
        return [ReasoningDelta(held)] if held else []

    # Each step takes a part of the text and returns the rest, or holds all of it.

    def _start(self, text: str, told: list[Delta]) -> str:
        word = text.lstrip(SPACE)
        if word.startswith(OPEN):
            self._step = self._lead_in
            return word[len(OPEN) :]
        if OPEN.startswith(word):
            self._held = text
            return ""
        self._step = self._answer
        return text

    def _lead_in(self, text: str, _: list[Delta]) -> str:
        word = text.lstrip(SPACE)
        if word:
            self._step = self._think
        return word

    def _think(self, text: str, told: list[Delta]) -> str:
        thought, tag, rest = text.partition(CLOSE)
        if not tag:
            thought = text[: len(text) - partial_len(text, CLOSE)]
        # Space at the end is told only when more of the thought follows it.
        thought = thought.rstrip(SPACE)
        if thought:
            told.append(ReasoningDelta(thought))
        if tag:
            self._step = self._lead_out
            return rest
        self._held = text[len(thought) :]
        return ""

    def _lead_out(self, text: str, _: list[Delta]) -> str:
        word = text.lstrip(SPACE)
        if word:
            self._step = self._answer
        return word

    def _answer(self, text: str, told: list[Delta]) -> str:
        told.append(TextDelta(text))
        return ""


def is_left_open(prompt: str) -> bool:
    """Whether a prompt ends with the tag, so that the reply begins in the middle of a thought."""
    return prompt.rstrip(SPACE).endswith(OPEN)
