"""What routing decided, and everything it weighed, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a request goes. No chosen option: nobody can take it."""

    chosen: Option | None
    reason: str
    rejected: tuple[Rejected, ...] = ()
    weigh: Callable[[], tuple[Option, ...]] = field(default=lambda: ())
    """All options that were weighed, the least cost first; worked out when asked for."""

    @property
    def decode_worker_id(self) -> str:
        """Empty when nobody can take the request."""
        return self.chosen.decode_worker_id if self.chosen else ""

    @property
    def prefill_worker_id(self) -> str:
        """Empty when the decode worker computes the prompt itself."""
        return self.chosen.prefill_worker_id if self.chosen else ""

    @property
    def num_uncached_tokens(self) -> int:
        """Tokens that somebody has to compute."""
        return self.chosen.num_computed_tokens if self.chosen else 0

    def explain(self) -> dict[str, str | int | float]:
        """The decision and its reasons as flat attributes, for traces and logs."""
        attributes: dict[str, str | int | float] = {
            "route.decode.worker_id": self.decode_worker_id,
            "route.prefill.worker_id": self.prefill_worker_id,
            "route.reason": self.reason,
            "route.options": "; ".join(map(str, self.weigh())),
            "route.rejected": "; ".join(map(str, self.rejected)),
        }
        if self.chosen is not None:
            attributes |= {
                "route.cached_tokens": self.chosen.num_cached_tokens,
                "route.fetched_tokens": self.chosen.num_fetched_tokens,
                "route.computed_tokens": self.chosen.num_computed_tokens,
                "route.predicted_ttft_ms": round(self.chosen.ttft_ms, 2),
                "route.predicted_itl_ms": round(self.chosen.itl_ms, 2),
                "route.cost_ms": round(self.chosen.cost_ms, 2),
            }
        return attributes
