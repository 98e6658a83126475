"""Writes answers: as events of a stream, or whole."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from baton.errors import BatonError
from baton.text.reply import Delta
from services.gateway.openai.errors import error_body
from services.gateway.openai.pieces import Piece, Usage
from services.gateway.openai.shapes import Shape, to_json

DONE = b"data: [DONE]\n\n"


class Events(Protocol):
    """Writes the events of a stream."""

    def piece(self, piece: Piece) -> bytes:
        """News of one choice."""

    def end(self, usage: Usage) -> bytes:
        """The good end."""

    def failure(self, error: BatonError) -> bytes:
        """The bad end."""


class Whole(Protocol):
    """Collects an answer that is sent in one piece."""

    def add(self, piece: Piece) -> None:
        """Takes news of one choice."""

    def body(self, usage: Usage) -> dict[str, Any]:
        """The answer."""


class EventWriter:
    """Server-sent events of one answer. All that does not change between events is encoded once."""

    def __init__(self, shape: Shape, request_id: str, model: str, includes_usage: bool) -> None:
        self._shape = shape
        self._includes_usage = includes_usage
        self._head = (
            f'data: {{"id":{to_json(shape.id_prefix + request_id)},'
            f'"object":"{shape.event_object}","created":{int(time.time())},'
            f'"model":{to_json(model)},"choices":['
        )
        # Clients that ask for usage expect the member in every event.
        self._tail = '],"usage":null}\n\n' if includes_usage else "]}\n\n"

    def piece(self, piece: Piece) -> bytes:
        """News of one choice."""
        logprobs = self._shape.logprobs(piece) if piece.positions else None
        finish = "null" if piece.finish_reason is None else f'"{piece.finish_reason}"'
        return (
            f'{self._head}{{"index":{piece.index},{self._shape.members(piece)},'
            f'"logprobs":{"null" if logprobs is None else to_json(logprobs)},'
            f'"finish_reason":{finish}}}{self._tail}'
        ).encode()

    def end(self, usage: Usage) -> bytes:
        """The good end."""
        if not self._includes_usage:
            return DONE
        return f'{self._head}],"usage":{to_json(usage.body())}}}\n\n'.encode() + DONE

    def failure(self, error: BatonError) -> bytes:
        """The bad end."""
        return f"data: {to_json(error_body(error))}\n\n".encode()


@dataclass(slots=True)
class _Choice:
    """What is known of one choice of a whole answer."""

    texts: list[str] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None


class WholeWriter:
    """Collects an answer that is sent in one piece."""

    def __init__(self, shape: Shape, request_id: str, model: str) -> None:
        self._shape = shape
        self._id = shape.id_prefix + request_id
        self._model = model
        self._created = int(time.time())
        self._choices: dict[int, _Choice] = {}

    def add(self, piece: Piece) -> None:
        """Takes news of one choice."""
        choice = self._choices.setdefault(piece.index, _Choice())
        choice.texts.append(piece.text)
        choice.deltas += piece.deltas
        logprobs = self._shape.logprobs(piece)
        if logprobs is not None:
            choice.logprobs.append(logprobs)
        choice.finish_reason = piece.finish_reason

    def body(self, usage: Usage) -> dict[str, Any]:
        """The answer."""
        return {
            "id": self._id,
            "object": self._shape.whole_object,
            "created": self._created,
            "model": self._model,
            "choices": [
                {
                    "index": index,
                    **self._shape.whole("".join(choice.texts), choice.deltas),
                    "logprobs": self._shape.join(choice.logprobs) if choice.logprobs else None,
                    "finish_reason": choice.finish_reason,
                }
                for index, choice in sorted(self._choices.items())
            ],
            "usage": usage.body(),
        }
