"""How a model's replies are read: which parsers, and the guide that forces calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from baton import guides
from baton.errors import InvalidRequest
from baton.request import Guide, GuideKind
from baton.text import ModelText
from baton.text.call_grammar import CallRules, call_grammar
from baton.text.call_parser import CallParser
from baton.text.dialect import PARSERS, Dialect, ToolFormat
from baton.text.reply import Chain, Delta, Parser
from baton.text.thinking import CLOSE, ThinkParser, is_left_open
from baton.text.thought_grammar import behind_thought
from services.gateway.openai.tools import ToolUse
from services.gateway.types import GenerateCommand

ToolParserName = Literal["auto", "hermes", "llama3", "none"]
ReasoningParserName = Literal["auto", "think", "none"]

# More than an opening tag takes in any tokeniser, spelled out and with space behind it.
_TAIL_TOKENS = 16


@dataclass(frozen=True, slots=True)
class ReplySettings:
    """Which parsers to use; auto: those that the model's template and tokens show."""

    tool_parser: ToolParserName = "auto"
    reasoning_parser: ReasoningParserName = "auto"

    def dialect(self, text: ModelText) -> Dialect:
        """How a model's replies are to be read."""
        tool_format, thinks = text.dialect.tool_format, text.dialect.thinks
        if self.tool_parser != "auto":
            tool_format = None if self.tool_parser == "none" else ToolFormat(self.tool_parser)
        if self.reasoning_parser != "auto":
            thinks = self.reasoning_parser == "think"
        return Dialect(tool_format, thinks)


AUTO = ReplySettings()


class Reply:
    """One choice's text, parsed as it comes."""

    def __init__(self, thinking: ThinkParser | None, calls: CallParser | None, end_id: int | None):
        both = thinking and calls and Chain(thinking, calls)
        parser: Parser | None = both or thinking or calls
        assert parser is not None
        self._parser = parser
        self._thinking = thinking
        self._end_id = end_id
        """The closing think tag, where that is one token."""
        self.num_reasoning_tokens = 0

    def push(self, text: str, token_ids: tuple[int, ...], is_last: bool) -> list[Delta]:
        """What new text says, and at the end what was kept back."""
        was_thinking = self._thinking is not None and not self._thinking.has_ended
        deltas = self._parser.push(text)
        if was_thinking:
            self._count(token_ids)
        return deltas + self._parser.flush() if is_last else deltas

    def _count(self, token_ids: tuple[int, ...]) -> None:
        assert self._thinking is not None
        if self._thinking.is_thinking:
            self.num_reasoning_tokens += len(token_ids)
        elif self._thinking.has_ended and self._end_id in token_ids:
            self.num_reasoning_tokens += token_ids.index(self._end_id) + 1


NewReply = Callable[[], Reply]


def new_reply(
    dialect: Dialect, use: ToolUse, text: ModelText, command: GenerateCommand
) -> NewReply | None:
    """Makes a parser per choice; None when text is all that there is."""
    make = PARSERS[dialect.tool_format] if use.tools and dialect.tool_format else None
    if make is None and not dialect.thinks:
        return None
    max_calls = None if use.may_call_many else 1
    is_open, end_id = False, None
    if dialect.thinks:
        tail = list(command.token_ids[-_TAIL_TOKENS:])
        is_open = is_left_open(text.decode(tail, skip_special_tokens=False))
        tag = text.encode(CLOSE, add_special_tokens=False)
        end_id = tag[0] if len(tag) == 1 else None

    def reply() -> Reply:
        thinking = ThinkParser(is_open) if dialect.thinks else None
        return Reply(thinking, make and make(use.names, max_calls), end_id)

    return reply


def check_tools(dialect: Dialect, use: ToolUse, model: str) -> None:
    """Raises `InvalidRequest` where tools are offered to a model that can't call any."""
    if use.tools and dialect.tool_format is None:
        raise InvalidRequest(
            f"tools cannot be used: model {model!r} has no known form of tool calls. "
            "The gateway's --tool-parser can name one.",
            field="tools",
        )


def forcing_guide(dialect: Dialect, use: ToolUse, prompt: str, text: ModelText) -> Guide:
    """Lets nothing but calls of the forced tools through, behind a thought where there is one."""
    assert dialect.tool_format is not None
    is_open = dialect.thinks and is_left_open(prompt)
    rules = CallRules(
        dialect.tool_format,
        may_think=dialect.thinks and not is_open,
        is_thinking=is_open,
        may_call_many=use.may_call_many,
    )
    tools = [(tool.function.name, tool.function.parameters) for tool in use.forced]
    return Guide(GuideKind.LARK, call_grammar(tools, rules, _is_token(text)))


def thinking_guide(guide: Guide, prompt: str, text: ModelText) -> Guide:
    """Holds what is behind the thought of a model that thinks to a guide, one that is in order."""
    grammar = behind_thought(guides.answer_rules(guide), is_left_open(prompt), _is_token(text))
    return Guide(GuideKind.LARK, grammar)


def _is_token(text: ModelText) -> Callable[[str], bool]:
    return lambda tag: len(text.encode(tag, add_special_tokens=False)) == 1
