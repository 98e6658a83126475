"""Whether a request was as fast as its client had hoped."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.gateway.requests import Request


@dataclass(frozen=True, slots=True)
class Attainment:
    """What was measured, and which targets it meets; None: no target, or nothing measured."""

    mean_itl_s: float | None
    ttft_met: bool | None
    itl_met: bool | None

    @classmethod
    def of(cls, request: Request) -> Attainment:
        """Of a request so far."""
        slo = request.command.slo
        ttft_s = None
        if request.num_output_tokens:
            ttft_s = (request.first_write_at or time.monotonic()) - request.arrived_at
        itl_s = _mean_itl_s(request)
        return cls(itl_s, _met(slo.target_ttft_ms, ttft_s), _met(slo.target_itl_ms, itl_s))

    def targets(self) -> dict[str, bool]:
        """Those that can be judged, by name."""
        judged = {"ttft": self.ttft_met, "itl": self.itl_met}
        return {name: met for name, met in judged.items() if met is not None}


def _mean_itl_s(request: Request) -> float | None:
    """Over all samples; None when none has two tokens."""
    num_gaps = sum(max(len(sample.token_ids) - 1, 0) for sample in request.samples)
    if not num_gaps:
        return None
    return sum(s.last_token_at - s.first_token_at for s in request.samples) / num_gaps


def _met(target_ms: int, measured_s: float | None) -> bool | None:
    if not target_ms or measured_s is None:
        return None
    return measured_s * 1000 <= target_ms
