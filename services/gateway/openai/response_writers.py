"""Writes answers of `/v1/responses`: as typed events of a stream, or whole."""

from __future__ import annotations

import time
from typing import Any

from baton.errors import BatonError
from services.gateway.openai.pieces import Piece, Usage
from services.gateway.openai.response_bodies import ResponsesBody
from services.gateway.openai.response_items import Event, Items
from services.gateway.openai.shapes import to_json
from services.gateway.types import GenerateCommand


class ResponseWriter:
    """Both ways of answering: each request takes one."""

    def __init__(self, body: ResponsesBody, command: GenerateCommand) -> None:
        self._items = Items(command.request_id)
        self._num_events = 0
        sampling = command.sampling
        self._head = {
            "id": f"resp_{command.request_id}",
            "object": "response",
            "created_at": int(time.time()),
            "model": command.model,
        }
        self._tail = {
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "temperature": sampling.temperature,
            "text": {"format": body.text_format},
            "tool_choice": body.tool_choice or "auto",
            "tools": [
                {**tool.model_dump(), "strict": bool(tool.strict)} for tool in body.tools or ()
            ],
            "top_p": sampling.top_p,
            "truncation": "disabled",
        }

    def piece(self, piece: Piece) -> bytes:
        """News of the answer."""
        return self._begun() + self._events(self._items.add(piece))

    def end(self, usage: Usage) -> bytes:
        """The good end, reached or cut off."""
        events = self._items.close(self._status)
        kind = f"response.{self._status}"
        return self._begun() + self._events([*events, {"type": kind, "response": self.body(usage)}])

    def failure(self, error: BatonError) -> bytes:
        """The bad end."""
        told = {"code": "server_error", "message": error.message}
        response = self._response("failed", error=told, output=self._items.body("incomplete"))
        return self._begun() + self._events([{"type": "response.failed", "response": response}])

    def add(self, piece: Piece) -> None:
        """Takes news of an answer that is sent whole."""
        self._items.add(piece)

    def body(self, usage: Usage) -> dict[str, Any]:
        """The whole response."""
        cut = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return self._response(
            self._status,
            incomplete_details=cut,
            output=self._items.body(self._status),
            usage={
                "input_tokens": usage.num_prompt_tokens,
                "input_tokens_details": {
                    "cached_tokens": usage.num_cached_tokens,
                    "cache_write_tokens": 0,
                },
                "output_tokens": usage.num_output_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.num_reasoning_tokens or 0},
                "total_tokens": usage.num_prompt_tokens + usage.num_output_tokens,
            },
        )

    @property
    def _status(self) -> str:
        return "incomplete" if self._items.finish_reason == "length" else "completed"

    def _begun(self) -> bytes:
        if self._num_events:
            return b""
        kinds = ("response.created", "response.in_progress")
        response = self._response("in_progress")
        return self._events([{"type": kind, "response": response} for kind in kinds])

    def _response(self, status: str, **members: Any) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }
        return {**self._head, "status": status, **defaults, **members, **self._tail}

    def _events(self, events: list[Event]) -> bytes:
        written = []
        for event in events:
            numbered = {**event, "sequence_number": self._num_events}
            self._num_events += 1
            written.append(f"event: {event['type']}\ndata: {to_json(numbered)}\n\n")
        return "".join(written).encode()
