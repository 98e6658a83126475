"""Grammars of replies that may begin with a thought, in llguidance's Lark."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from baton.text import thinking


def behind_thought(
    answer_rules: Sequence[str], is_thinking: bool, is_token: Callable[[str], bool]
) -> str:
    """An answer behind a thought, or alone where the prompt has not opened one.

    The rules must define `answer`, and `spaced` for one behind space.
    """
    start = "start: thought spaced" if is_thinking else "start: answer | thought spaced"
    lines = [start, *answer_rules, *thought_rules(is_thinking, is_token)]
    return "\n".join(lines) + "\n"


def thought_rules(is_thinking: bool, is_token: Callable[[str], bool]) -> list[str]:
    """The rule `thought`: up to the closing tag, from the opening one if the prompt has none."""
    opening = "" if is_thinking else f"{tag(thinking.OPEN, is_token)} "
    if is_token(thinking.CLOSE):
        return [f"thought: {opening}/(?s:.*)/ {thinking.CLOSE}"]
    return [
        f"thought: {opening}thinking",
        f"thinking[suffix={json.dumps(thinking.CLOSE)}]: /(?s:.*)/",
    ]


def tag(text: str, is_token: Callable[[str], bool]) -> str:
    """A tag as grammars name it: tokens of their own under their names, others as text."""
    return text if is_token(text) else json.dumps(text)
