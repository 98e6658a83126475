"""What clients send to `/v1/responses`, and the conversation that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from baton.errors import InvalidRequest
from services.gateway.openai.bodies import GenerateBody
from services.gateway.openai.errors import from_validation, shown
from services.gateway.openai.messages import ChatMessage
from services.gateway.openai.tools import Function, FunctionName, Tool

# For each field the values that ask for nothing.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "background": (False,),
    "conversation": (),
    "include": ([],),
    "max_tool_calls": (),
    "previous_response_id": (),
    "prompt": (),
    "reasoning": ({},),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
_TEXT_PARTS = ("input_text", "output_text", "text")


class FlatTool(BaseModel):
    """A function, described without a wrapper."""

    model_config = ConfigDict(strict=True, extra="ignore")

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def as_chat_tool(self) -> Tool:
        """As chat clients write it."""
        given = self.model_dump(exclude_none=True, exclude={"type"})
        return Tool(type="function", function=Function(**given))


class ResponsesBody(GenerateBody):
    """`/v1/responses`."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    tools: list[FlatTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, Any] | None = None

    def refuse_unsupported(self) -> None:
        """Raises `InvalidRequest` that names the first field we would have to ignore."""
        for name, neutral in _NEUTRAL.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in neutral:
                raise InvalidRequest(
                    f"{name} is {shown(value)}, which is not supported here.", field=name
                )
        if self.max_tokens is not None:
            raise InvalidRequest(
                "max_tokens is not known here; max_output_tokens is meant.", field="max_tokens"
            )
        if self.n not in (None, 1):
            raise InvalidRequest(f"n is {self.n}; a response has one answer.", field="n")

    @property
    def text_format(self) -> dict[str, Any]:
        """What the text must look like, as it was asked for."""
        form: dict[str, Any] | None = ((self.model_extra or {}).get("text") or {}).get("format")
        return form or {"type": "text"}

    @property
    def chat_choice(self) -> Any:
        """`tool_choice` as chat clients write it."""
        match self.tool_choice:
            case {"type": "function", "name": str(name)}:
                return {"type": "function", "function": {"name": name}}
        return self.tool_choice

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as the chat template sees it."""
        turns: list[dict[str, Any]] = []
        if self.instructions:
            turns.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*turns, {"role": "user", "content": self.input}] if self.input else turns
        for index, item in enumerate(self.input):
            turn = _turn(item, index)
            if turn is not None:
                _append(turns, turn)
        return [_checked(turn).as_template_sees_it() for turn in turns]


def _turn(item: Mapping[str, Any], index: int) -> dict[str, Any] | None:
    """An item as a chat message; None for one that says nothing to a model."""
    match item:
        case {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}:
            function = {"name": name, "arguments": arguments}
            call = {"id": call_id, "type": "function", "function": function}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        case {"type": "function_call_output", "call_id": call_id, "output": output}:
            return {"role": "tool", "tool_call_id": call_id, "content": _content(output)}
        case {"type": "reasoning"}:
            return None
        case {"role": role, "content": content} if item.get("type", "message") == "message":
            return {"role": role, "content": _content(content)}
    raise InvalidRequest(
        f"input[{index}] is {shown(item)}; it must be a message, a function_call, a "
        "function_call_output or reasoning.",
        field=f"input[{index}]",
    )


def _content(content: Any) -> Any:
    """Text parts under the names that chat has for them; what is none is left to be refused."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": part.get("text")}
        if isinstance(part, dict) and part.get("type") in _TEXT_PARTS
        else part
        for part in content
    ]


def _append(turns: list[dict[str, Any]], turn: dict[str, Any]) -> None:
    """Calls belong to the assistant's turn before them."""
    if turn.get("tool_calls") and turns and turns[-1]["role"] == "assistant":
        turns[-1].setdefault("tool_calls", []).extend(turn["tool_calls"])
    else:
        turns.append(turn)


def _checked(turn: dict[str, Any]) -> ChatMessage:
    try:
        return ChatMessage.model_validate(turn)
    except ValidationError as failure:
        complaint = from_validation(failure)
        raise InvalidRequest(f"input: {complaint.message}", field="input") from failure
