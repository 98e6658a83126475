"""What routing decided, and everything it weighed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Standing(Enum):
    """How good a candidate is, before prefix and load; better ones first."""

    OPEN = 0
    CROWDED = 1
    SATURATED = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that could take the part, and how it compares."""

    worker_id: str
    standing: Standing
    num_cached_tokens: int
    load: int
    """Decode: sequences, tokens to compute among them. Prefill: tokens to compute."""
    rank: tuple[int, int, int]
    """Compared as a whole, the smallest wins: standing, prefix steps (negated), load steps."""

    def __str__(self) -> str:
        standing = "" if self.standing is Standing.OPEN else f" {self.standing.name.lower()}"
        return f"{self.worker_id} cached={self.num_cached_tokens} load={self.load}{standing}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A worker that cannot take the part, and why."""

    worker_id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.worker_id} {self.reason}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One part's outcome with all that was weighed."""

    worker_id: str | None
    reason: str
    candidates: tuple[Candidate, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    num_cached_tokens: int = 0
    """Of the chosen worker."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes."""

    decode: Choice
    """Its worker id is None when nobody can take the request."""
    prefill: Choice
    """Its worker id is None when decode computes the prompt itself."""
    num_uncached_tokens: int = 0
    """Tokens that somebody has to compute, as seen from the decode worker."""

    def explain(self) -> dict[str, str | int]:
        """The decision and its reasons as flat attributes, for traces and logs."""
        attributes: dict[str, str | int] = {"route.uncached_tokens": self.num_uncached_tokens}
        for part, choice in (("decode", self.decode), ("prefill", self.prefill)):
            weighed = [*choice.candidates, *choice.rejected]
            attributes |= {
                f"route.{part}.worker_id": choice.worker_id or "",
                f"route.{part}.reason": choice.reason,
                f"route.{part}.cached_tokens": choice.num_cached_tokens,
                f"route.{part}.candidates": "; ".join(str(entry) for entry in weighed),
            }
        return attributes
