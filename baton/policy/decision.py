"""What routing decided, and everything it weighed, in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

NOBODY = "no decode worker can take it"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A worker that cannot take a part, and why."""

    worker_id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.worker_id} {self.reason}"


@dataclass(frozen=True, slots=True)
class Option:
    """A way to serve the request, and what it is predicted to cost."""

    decode_worker_id: str
    prefill_worker_id: str
    """Empty: the decode worker computes the prompt itself."""
    cost_ms: float
    """The sum of `terms`: options are compared by it."""
    ttft_ms: float
    """Predicted time to the first token, from the decision on."""
    itl_ms: float
    """Predicted time between tokens for the sequences of the decode worker, this one included."""
    num_cached_tokens: int
    """Of the decode worker."""
    num_fetched_tokens: int
    """That are predicted to come from kvstore, to whoever computes the rest."""
    num_computed_tokens: int
    """That somebody has to compute."""
    terms: tuple[tuple[str, float], ...]
    """What the cost is made of: names and milliseconds."""

    @property
    def source(self) -> str:
        """Where the prompt's KV comes from, in a few words."""
        parts = {"device": self.num_cached_tokens, "kvstore": self.num_fetched_tokens}
        where = f"computed by {self.prefill_worker_id or self.decode_worker_id}"
        named = [f"{count} {name}" for name, count in parts.items() if count]
        return ", ".join([*named, f"{self.num_computed_tokens} {where}"])

    def __str__(self) -> str:
        terms = " ".join(f"{name}={value:.1f}" for name, value in self.terms if value)
        way = f"{self.decode_worker_id}<-{self.prefill_worker_id or 'local'}"
        return f"{way} cost={self.cost_ms:.1f} ttft={self.ttft_ms:.1f} {terms}"


class Details(Protocol):
    """What was weighed, put into words when somebody asks: hardly anybody does."""

    def reason(self) -> str:
        """Why the chosen option was chosen."""

    def chosen(self) -> Option:
        """The chosen option."""

    def options(self) -> tuple[Option, ...]:
        """All options that were weighed, the least cost first; the chosen one is among them."""


# Not frozen: there is one per request, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Decision:
    """Where a request goes. Nobody changes one. No details: nobody can take it."""

    decode_worker_id: str = ""
    """Empty when nobody can take the request."""
    prefill_worker_id: str = ""
    """Empty when the decode worker computes the prompt itself."""
    num_uncached_tokens: int = 0
    """Tokens that somebody has to compute."""
    ttft_ms: float = 0.0
    """Predicted time to the first token, from the decision on."""
    rejected: tuple[Rejected, ...] = ()
    details: Details | None = None

    @property
    def chosen(self) -> Option | None:
        """What was chosen, with all its terms."""
        return self.details.chosen() if self.details is not None else None

    @property
    def reason(self) -> str:
        """Why."""
        return self.details.reason() if self.details is not None else NOBODY

    def weigh(self) -> tuple[Option, ...]:
        """All options that were weighed, the least cost first."""
        return self.details.options() if self.details is not None else ()

    def explain(self) -> dict[str, str | int | float]:
        """The decision and its reasons as flat attributes, for traces and logs."""
        attributes: dict[str, str | int | float] = {
            "route.decode.worker_id": self.decode_worker_id,
            "route.prefill.worker_id": self.prefill_worker_id,
            "route.reason": self.reason,
            "route.options": "; ".join(map(str, self.weigh())),
            "route.rejected": "; ".join(map(str, self.rejected)),
        }
        chosen = self.chosen
        if chosen is not None:
            attributes |= {
                "route.cached_tokens": chosen.num_cached_tokens,
                "route.fetched_tokens": chosen.num_fetched_tokens,
                "route.computed_tokens": chosen.num_computed_tokens,
                "route.predicted_ttft_ms": round(chosen.ttft_ms, 2),
                "route.predicted_itl_ms": round(chosen.itl_ms, 2),
                "route.cost_ms": round(chosen.cost_ms, 2),
            }
        return attributes
