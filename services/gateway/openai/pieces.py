"""From chunks of several prompts and samples to pieces of choices, the unit of an OpenAI answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.request import FinishReason, TokenLogprobs
from services.gateway.types import Chunk, Final

_FINISH = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
    FinishReason.ERROR: "error",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """News of one choice."""

    index: int
    text: str
    positions: tuple[TokenLogprobs, ...]
    finish_reason: str | None
    is_first: bool


class Pieces:
    """Numbers the choices, prepends what is echoed, and holds back what shows no text yet."""

    def __init__(self, sample_count: int, echoes: Sequence[str] = ()) -> None:
        self._sample_count = sample_count
        self._echoes = echoes
        self._begun: set[int] = set()
        self._waiting: dict[int, tuple[TokenLogprobs, ...]] = {}

    def take(self, prompt_index: int, chunk: Chunk) -> Piece | None:
        """None for a chunk without text, unless it ends the sample; log-probabilities wait."""
        index = prompt_index * self._sample_count + chunk.sample_index
        positions = self._waiting.pop(index, ()) + chunk.logprobs
        if not chunk.text and chunk.finish_reason is None:
            self._waiting[index] = positions
            return None
        is_first = index not in self._begun
        self._begun.add(index)
        echo = self._echoes[prompt_index] if is_first and self._echoes else ""
        return Piece(
            index=index,
            text=echo + chunk.text,
            positions=positions,
            finish_reason=_FINISH[chunk.finish_reason] if chunk.finish_reason else None,
            is_first=is_first,
        )


@dataclass(slots=True)
class Usage:
    """Tokens of one HTTP request; its prompts add up."""

    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0

    def add(self, final: Final) -> None:
        """Counts one prompt."""
        self.num_prompt_tokens += final.num_prompt_tokens
        self.num_output_tokens += final.num_output_tokens
        self.num_cached_tokens += final.num_cached_tokens

    def body(self) -> dict[str, object]:
        """The `usage` object."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_output_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }
