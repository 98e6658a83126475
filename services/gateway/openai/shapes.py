"""How the two endpoints write a choice: in an event of a stream, and in a whole answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from baton.request import TokenLogprobs
from baton.text import ModelText
from baton.text.reply import Delta
from services.gateway.openai.chat_deltas import message, told
from services.gateway.openai.pieces import Piece

# What OpenAI sends for impossible tokens; JSON has no infinity.
LOWEST_LOGPROB = -9999.0

# Prepared, since `json.dumps` with options builds an encoder on each call.
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Shape(Protocol):
    """One endpoint's form of a choice. Keeps state for one answer."""

    id_prefix: str
    whole_object: str
    event_object: str

    def members(self, piece: Piece) -> str:
        """What a choice in an event says, as JSON members."""

    def whole(self, text: str, deltas: Sequence[Delta]) -> dict[str, Any]:
        """What a choice in a whole answer says; `deltas` are those of a parsed reply."""

    def logprobs(self, piece: Piece) -> dict[str, Any] | None:
        """Log-probabilities of a piece."""

    def join(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Log-probabilities of a whole choice from those of its pieces."""


class ChatShape:
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    event_object = "chat.completion.chunk"

    def __init__(self, text: ModelText) -> None:
        self._text = text

    def members(self, piece: Piece) -> str:
        """The first piece says who speaks; one without text says nothing else."""
        if piece.deltas:
            return f'"delta":{to_json(told(piece.deltas, piece.is_first))}'
        role = '"role":"assistant",' if piece.is_first else ""
        if piece.text or piece.is_first:
            return f'"delta":{{{role}"content":{to_json(piece.text)}}}'
        return '"delta":{}'

    def whole(self, text: str, deltas: Sequence[Delta]) -> dict[str, Any]:
        """The assistant's message."""
        if deltas:
            return {"message": message(deltas)}
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def logprobs(self, piece: Piece) -> dict[str, Any] | None:
        """One entry per token."""
        if not piece.positions:
            return None
        return {"content": [self._position(entry) for entry in piece.positions], "refusal": None}

    def join(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """All entries in one list."""
        return {"content": [entry for part in parts for entry in part["content"]], "refusal": None}

    def _position(self, position: TokenLogprobs) -> dict[str, Any]:
        top = [self._token(token_id, logprob) for token_id, logprob in position.top]
        return {**self._token(position.token_id, position.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {
            "token": self._text.token_text(token_id),
            "logprob": _finite(logprob),
            "bytes": list(self._text.token_bytes(token_id)),
        }


class CompletionShape:
    """`/v1/completions`."""

    id_prefix = "cmpl-"
    whole_object = "text_completion"
    event_object = "text_completion"

    def __init__(self, text: ModelText) -> None:
        self._text = text
        self._num_characters: dict[int, int] = {}
        """By choice: where the next token's text begins."""

    def members(self, piece: Piece) -> str:
        """Just the text."""
        return f'"text":{to_json(piece.text)}'

    def whole(self, text: str, deltas: Sequence[Delta]) -> dict[str, Any]:
        """Just the text."""
        return {"text": text}

    def logprobs(self, piece: Piece) -> dict[str, Any] | None:
        """Four lists with an element per token."""
        if not piece.positions:
            return None
        offset = self._num_characters.get(piece.index, 0)
        lists: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for position in piece.positions:
            token = self._text.token_text(position.token_id)
            lists["tokens"].append(token)
            lists["token_logprobs"].append(_finite(position.logprob))
            lists["top_logprobs"].append(self._top(position, token))
            lists["text_offset"].append(offset)
            offset += len(token)
        self._num_characters[piece.index] = offset
        return lists

    def join(self, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Each list in one piece."""
        return {name: [entry for part in parts for entry in part[name]] for name in parts[0]}

    def _top(self, position: TokenLogprobs, token: str) -> dict[str, float]:
        top = {token: _finite(position.logprob)}
        for token_id, logprob in position.top:
            # Parts of characters may read alike: the likeliest one stays.
            top.setdefault(self._text.token_text(token_id), _finite(logprob))
        return top


def _finite(logprob: float) -> float:
    return logprob if logprob >= LOWEST_LOGPROB else LOWEST_LOGPROB
