"""How a model writes tool calls and reasoning, as its chat template and vocabulary show."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from enum import Enum

from baton.text import hermes, llama3, thinking
from baton.text.call_parser import CallParser


class ToolFormat(Enum):
    """Forms of tool calls that we can read; values are the names that settings know."""

    HERMES = "hermes"
    LLAMA3 = "llama3"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What to look for in a model's replies."""

    tool_format: ToolFormat | None = None
    """None: the model was not taught to call tools, or in a form unknown to us."""
    thinks: bool = False
    """Whether replies may hold think tags."""


PLAIN = Dialect()

PARSERS: dict[ToolFormat, Callable[..., CallParser]] = {
    ToolFormat.HERMES: hermes.HermesParser,
    ToolFormat.LLAMA3: llama3.Llama3Parser,
}


def dialect_of(templates: Iterable[str], vocabulary: Container[str]) -> Dialect:
    """Tools need a template that shows them to the model; then its marks, or tokens, decide."""
    source = "\n".join(templates)

    def knows(mark: str) -> bool:
        return mark in source or mark in vocabulary

    tool_format = None
    if "tools" in source:
        # Templates are asked before vocabularies, in which marks of other models may be left over.
        marks = ((ToolFormat.HERMES, hermes.OPEN), (ToolFormat.LLAMA3, llama3.TAG))
        named = [form for form, mark in marks if mark in source]
        known = [form for form, mark in marks if knows(mark)]
        tool_format = next(iter(named + known), None)
    thinks = thinking.CLOSE in source or (
        thinking.OPEN in vocabulary and thinking.CLOSE in vocabulary
    )
    return Dialect(tool_format, thinks)
