"""The turns of a conversation as chat clients send them."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

ROLES = ("system", "developer", "user", "assistant", "tool")


class CalledFunction(BaseModel):
    """What an assistant called."""

    model_config = ConfigDict(strict=True, extra="ignore")

    name: str
    arguments: str

    def as_template_sees_it(self) -> dict[str, Any]:
        """Templates write arguments as JSON themselves; what is none stays as it is."""
        try:
            value = json.loads(self.arguments)
        except (ValueError, RecursionError):
            value = None
        return {"name": self.name, "arguments": value if type(value) is dict else self.arguments}


class ToolCall(BaseModel):
    """One call in an assistant's turn."""

    model_config = ConfigDict(strict=True, extra="ignore")

    id: str
    type: str = "function"
    function: CalledFunction

    def as_template_sees_it(self) -> dict[str, Any]:
        """As OpenAI's, with the arguments read."""
        function = self.function.as_template_sees_it()
        return {"id": self.id, "type": "function", "function": function}


class TextPart(BaseModel):
    """A part of a turn's content."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn. What the chat template may want besides these is kept."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: str
    content: str = ""
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @field_validator("role")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ROLES:
            raise ValueError(f"must be one of {', '.join(ROLES)}")
        return value

    @field_validator("content", mode="before", json_schema_input_type=str | list[TextPart] | None)
    @classmethod
    def _text_of(cls, value: object) -> object:
        """Text parts are joined by line breaks; None, as in a turn of tool calls, is no text."""
        match value:
            case None:
                return ""
            case str():
                return value
            case list() if all(_is_text_part(part) for part in value):
                return "\n".join(part["text"] for part in value)
        raise ValueError(
            "should be a string or a list of parts of type text; no other is supported"
        )

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("needs tool_call_id, as its role is tool")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("has tool_calls, which only the assistant may have")
        return self

    def as_template_sees_it(self) -> dict[str, Any]:
        """The message as a dict. `developer` is what newer clients call `system`."""
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [call.as_template_sees_it() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        # Clients send back what they got, with what was empty in it.
        extra = {name: value for name, value in (self.model_extra or {}).items() if value}
        return {**message, **extra}


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )
