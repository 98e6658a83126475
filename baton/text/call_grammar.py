"""The grammar of replies that must call tools, in llguidance's Lark."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baton.text import hermes
from baton.text.dialect import ToolFormat
from baton.text.thought_grammar import tag, thought_rules

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
    """Tools are names with the schemas of their arguments; None: there are none."""
    is_hermes = rules.tool_format is ToolFormat.HERMES
    key, separator = ("arguments", r'"\n"') if is_hermes else ("parameters", '"; "')
    before = f'{tag(hermes.OPEN, is_token)} "\\n" ' if is_hermes else ""
    behind = f' "\\n" {tag(hermes.CLOSE, is_token)}' if is_hermes else ""
    lines = [
        f"start: {_thought(rules)}call" + (f" ({separator} call)*" if rules.may_call_many else ""),
        f"call: {before}({' | '.join(f'tool_{index}' for index in range(len(tools)))}){behind}",
    ]
    for index, (name, schema) in enumerate(tools):
        head = json.dumps(f'{{"name": {json.dumps(name)}, "{key}": ')
        lines.append(f'tool_{index}: {head} arguments_{index} "}}"')
        lines.append(f"arguments_{index}: %json {_arguments(schema)}")
    if rules.may_think or rules.is_thinking:
        lines += thought_rules(rules.is_thinking, is_token)
    return "\n".join(lines) + "\n"


def _thought(rules: CallRules) -> str:
    if rules.is_thinking:
        return r"thought /\s*/ "
    return r"(thought /\s*/)? " if rules.may_think else ""


def _arguments(schema: Mapping[str, Any] | None) -> str:
    """A schema of its own for each tool, so that references in it point to where they did."""
    full = {"type": "object", **(_NO_ARGUMENTS if schema is None else schema)}
    return json.dumps({**full, "x-guidance": _SPACING})
