"""The grammar of replies that must call tools, in llguidance's Lark."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baton.text import hermes, thinking
from baton.text.dialect import ToolFormat

# As Python and the models' training data write JSON.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class CallRules:
    """What a reply must be."""

    tool_format: ToolFormat
    may_think: bool = False
    is_thinking: bool = False
    """Whether the prompt has opened a thought."""
    may_call_many: bool = True


def call_grammar(
    tools: Sequence[tuple[str, Mapping[str, Any] | None]],
    rules: CallRules,
    is_token: Callable[[str], bool],
) -> str:
    """Tools are names with the schemas of their arguments; None: there are none.

    The guide takes tags that are tokens of their own only under their names, others only as text.
    """

    def tag(text: str) -> str:
        return text if is_token(text) else json.dumps(text)

    is_hermes = rules.tool_format is ToolFormat.HERMES
    key, separator = ("arguments", r'"\n"') if is_hermes else ("parameters", '"; "')
    before = f'{tag(hermes.OPEN)} "\\n" ' if is_hermes else ""
    behind = f' "\\n" {tag(hermes.CLOSE)}' if is_hermes else ""
    lines = [
        f"start: {_thought(rules)}call" + (f" ({separator} call)*" if rules.may_call_many else ""),
        f"call: {before}({' | '.join(f'tool_{index}' for index in range(len(tools)))}){behind}",
    ]
    for index, (name, schema) in enumerate(tools):
        head = json.dumps(f'{{"name": {json.dumps(name)}, "{key}": ')
        lines.append(f'tool_{index}: {head} arguments_{index} "}}"')
        lines.append(f"arguments_{index}: %json {_arguments(schema)}")
    if rules.may_think or rules.is_thinking:
        lines += _thought_rules(rules, tag)
    return "\n".join(lines) + "\n"


def _thought(rules: CallRules) -> str:
    if rules.is_thinking:
        return "thought "
    return "thought? " if rules.may_think else ""


def _thought_rules(rules: CallRules, tag: Callable[[str], str]) -> list[str]:
    opening = "" if rules.is_thinking else f"{tag(thinking.OPEN)} "
    if tag(thinking.CLOSE) == thinking.CLOSE:
        return [rf"thought: {opening}/(?s:.*)/ {thinking.CLOSE} /\s*/"]
    return [
        rf"thought: {opening}thinking /\s*/",
        f"thinking[suffix={json.dumps(thinking.CLOSE)}]: /(?s:.*)/",
    ]


def _arguments(schema: Mapping[str, Any] | None) -> str:
    """A schema of its own for each tool, so that references in it point to where they did."""
    full = {"type": "object", **(_NO_ARGUMENTS if schema is None else schema)}
    return json.dumps({**full, "x-guidance": _SPACING})
