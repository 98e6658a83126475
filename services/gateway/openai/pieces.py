"""From chunks of several prompts and samples to pieces of choices, the unit of an OpenAI answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from baton.request import FinishReason, TokenLogprobs
from baton.text.reply import CallDelta, Delta
from services.gateway.openai.replies import NewReply, Reply
from services.gateway.types import Chunk, Final

_FINISH = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.ERROR: "error",
}


# Not frozen: there is one per token, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Piece:
    """News of one choice. Nobody changes one."""

    index: int
    text: str
    positions: tuple[TokenLogprobs, ...]
    finish_reason: str | None
    is_first: bool
    deltas: tuple[Delta, ...] = ()
    """What a parsed reply says, instead of the text."""


class Taker(Protocol):
    """Turns chunks into pieces."""

    @property
    def num_reasoning_tokens(self) -> int | None:
        """None: not known, since nothing looks for it."""

    def take(self, prompt_index: int, chunk: Chunk) -> Piece | None:
        """The piece that is due; None while there is nothing to show."""


class Pieces:
    """Numbers the choices, prepends what is echoed, and holds back what shows no text yet."""

    def __init__(self, sample_count: int, echoes: Sequence[str] = ()) -> None:
        self._sample_count = sample_count
        self._echoes = echoes
        self._begun: set[int] = set()
        self._waiting: dict[int, tuple[TokenLogprobs, ...]] = {}

    @property
    def num_reasoning_tokens(self) -> None:
        """Nothing looks for reasoning."""
        return None

    def take(self, prompt_index: int, chunk: Chunk) -> Piece | None:
        """None for a chunk without text, unless it ends the sample; log-probabilities wait."""
        index = prompt_index * self._sample_count + chunk.sample_index
        positions = chunk.logprobs
        if self._waiting:
            positions = self._waiting.pop(index, ()) + positions
        if not chunk.text and chunk.finish_reason is None:
            if positions:
                self._waiting[index] = positions
            return None
        is_first = index not in self._begun
        if not is_first and chunk.finish_reason is None:
            return Piece(index, chunk.text, positions, None, False)
        self._begun.add(index)
        echo = self._echoes[prompt_index] if is_first and self._echoes else ""
        return Piece(
            index=index,
            text=echo + chunk.text,
            positions=positions,
            finish_reason=_FINISH[chunk.finish_reason] if chunk.finish_reason else None,
            is_first=is_first,
        )


class ParsedPieces:
    """Pieces of choices whose text is parsed: reasoning, text, calls of tools."""

    def __init__(self, sample_count: int, new_reply: NewReply, counts_reasoning: bool) -> None:
        self._sample_count = sample_count
        self._new_reply = new_reply
        self._counts_reasoning = counts_reasoning
        self._replies: dict[int, Reply] = {}
        self._begun: set[int] = set()
        self._called: set[int] = set()
        self._waiting: dict[int, tuple[TokenLogprobs, ...]] = {}

    @property
    def num_reasoning_tokens(self) -> int | None:
        """Over all choices; None when the model does not think."""
        if not self._counts_reasoning:
            return None
        return sum(reply.num_reasoning_tokens for reply in self._replies.values())

    def take(self, prompt_index: int, chunk: Chunk) -> Piece | None:
        """None for a chunk that completes nothing, unless it ends the sample."""
        index = prompt_index * self._sample_count + chunk.sample_index
        reply = self._replies.get(index)
        if reply is None:
            reply = self._replies[index] = self._new_reply()
        reason = chunk.finish_reason
        deltas = reply.push(chunk.text, chunk.token_ids, is_last=reason is not None)
        positions = self._waiting.pop(index, ()) + chunk.logprobs
        if not deltas and reason is None:
            self._waiting[index] = positions
            return None
        if any(isinstance(delta, CallDelta) for delta in deltas):
            self._called.add(index)
        is_first = index not in self._begun
        self._begun.add(index)
        finish = _FINISH[reason] if reason else None
        if finish == "stop" and index in self._called:
            finish = "tool_calls"
        return Piece(index, "", positions, finish, is_first, tuple(deltas))


@dataclass(slots=True)
class Usage:
    """Tokens of one HTTP request; its prompts add up."""

    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    num_reasoning_tokens: int | None = None

    def add(self, final: Final) -> None:
        """Counts one prompt."""
        self.num_prompt_tokens += final.num_prompt_tokens
        self.num_output_tokens += final.num_output_tokens
        self.num_cached_tokens += final.num_cached_tokens

    def body(self) -> dict[str, object]:
        """The `usage` object."""
        details = {}
        if self.num_reasoning_tokens is not None:
            reasoning = {"reasoning_tokens": self.num_reasoning_tokens}
            details = {"completion_tokens_details": reasoning}
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_output_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
            **details,
        }
