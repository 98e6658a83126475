"""The tools that a request offers, and which of them the model may or must call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from baton.errors import InvalidRequest
from services.gateway.openai.errors import shown

MAX_TOOLS = 128

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Function(BaseModel):
    """A function that the client would run. `strict` is met where calls are enforced."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; functions are the only kind."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["function"]
    function: Function

    def as_template_sees_it(self) -> dict[str, Any]:
        """What was given, without what only servers read."""
        return self.model_dump(exclude_unset=True, exclude={"function": {"strict"}})


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request wants of its tools."""

    tools: tuple[Tool, ...] = ()
    """Those that the model sees."""
    forced: tuple[Tool, ...] = ()
    """One of these must be called; empty: the model is free to answer in words."""
    may_call_many: bool = True

    @property
    def names(self) -> frozenset[str]:
        """What the model may call."""
        return frozenset(tool.function.name for tool in self.tools)

    @property
    def shown(self) -> tuple[dict[str, Any], ...]:
        """For the chat template."""
        return tuple(tool.as_template_sees_it() for tool in self.tools)


NO_TOOLS = ToolUse()


def tool_use(tools: Sequence[Tool] | None, choice: object, parallel: bool | None) -> ToolUse:
    """What `tools`, `tool_choice` and `parallel_tool_calls` mean together."""
    _check(tools or ())
    name = _named(choice)
    if name is None and choice not in (None, "none", "auto", "required"):
        raise InvalidRequest(
            f"tool_choice is {shown(choice)}; it must be none, auto, required or "
            '{"type": "function", "function": {"name": …}}.',
            field="tool_choice",
        )
    if not tools and (name is not None or choice == "required"):
        raise InvalidRequest("tool_choice needs tools, and there are none.", field="tool_choice")
    if not tools or choice == "none":
        return NO_TOOLS
    forced = tuple(tools) if choice == "required" else ()
    if name is not None:
        forced = tuple(tool for tool in tools if tool.function.name == name)
        if not forced:
            raise InvalidRequest(
                f"tool_choice names {name[:80]!r}, which is not among tools.", field="tool_choice"
            )
    many = parallel is not False and name is None
    return ToolUse(tuple(tools), forced, many)


def _named(choice: object) -> str | None:
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
    return None


def _check(tools: Sequence[Tool]) -> None:
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(
            f"tools has {len(tools)} entries; at most {MAX_TOOLS} are allowed.", field="tools"
        )
    seen: set[str] = set()
    for tool in tools:
        name = tool.function.name
        if name in seen:
            raise InvalidRequest(f"tools has {name!r} twice.", field="tools")
        seen.add(name)
