"""Holds requests back while the workers are busy, lets them go in fair order, sheds what is late.

A request that finds room and nobody waiting passes without a pause.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import inf

from baton.policy.admission import Patience
from baton.policy.shares import Line
from services.gateway.halls import Clock, Hall, LookAtPool, Ticket
from services.gateway.requests import Request
from services.gateway.tenants import Tenants
from services.gateway.types import GenerateCommand, Visitor


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """How requests are admitted."""

    is_on: bool = True
    target_ttft_s: float = 10.0
    """For requests that name no target and whose tenant has none; 0: as long as it takes."""


class Admission:
    """All halls, and who may enter them."""

    def __init__(
        self,
        look: LookAtPool,
        settings: AdmissionSettings,
        tenants: Tenants,
        clock: Clock = time.monotonic,
    ) -> None:
        self._look = look
        self._settings = settings
        self._tenants = tenants
        self._clock = clock
        self._halls: dict[str, Hall] = {}
        default_s = settings.target_ttft_s or inf
        self._usual_patience = Patience(default_s, default_s)

    @property
    def num_waiting(self) -> int:
        """Requests held back."""
        return sum(len(hall.queue) for hall in self._halls.values())

    def lines(self) -> dict[str, Line]:
        """Who waits, by model: what other gateways are told."""
        return {model: hall.line() for model, hall in self._halls.items() if hall.queue}

    def named(self, visitor: Visitor) -> Visitor:
        """With the tenant that its key names and the priority that this one may have."""
        tenants = self._tenants
        if tenants.takes_all_at_their_word:
            return visitor
        tenant = tenants.named(visitor.tenant, visitor.api_key, visitor.tenant_field)
        priority = tenants.priority(tenant, visitor.priority)
        if (tenant, priority) == (visitor.tenant, visitor.priority):
            return visitor
        return replace(visitor, tenant=tenant, priority=priority)

    def check_early(self, model: str, visitor: Visitor) -> None:
        """Raises `Overloaded` for a request that would be late whatever its prompt."""
        hall = self._halls.get(model)
        if hall is not None and hall.queue:
            patience = self._patience(visitor.tenant, visitor.target_ttft_ms)
            hall.check_early(visitor.tenant, visitor.priority, patience)

    def has_lesser(self, model: str, visitor: Visitor) -> bool:
        """Whether a request waits whose place this one could have."""
        hall = self._halls.get(model)
        return hall is not None and hall.has_lesser(visitor.tenant, visitor.priority)

    def make_room(self, command: GenerateCommand) -> bool:
        """Sheds a request that waits, if this one has the better right to its place."""
        hall = self._halls.get(command.model)
        return hall is not None and hall.make_room(command.tenant, command.priority)

    async def enter(self, request: Request) -> None:
        """Gives a request its ticket; returns when it may be sent, or has ended while it waited.

        Raises `Overloaded` when its first token is or becomes predicted too late.
        """
        if not self._settings.is_on:
            return
        command = request.command
        hall = self._halls.get(command.model)
        if hall is None:
            hall = self._halls[command.model] = Hall(
                command.model, self._look, self._tenants, self._clock
            )
        demand = hall.forecast.demand(
            len(command.token_ids),
            command.sample_count,
            command.sampling.max_tokens,
            command.slo.expected_output_count,
        )
        patience = self._patience(command.tenant, command.slo.target_ttft_ms)
        ticket = Ticket(hall, command, demand, patience)
        if hall.take(ticket):
            request.ticket = ticket
            return
        hall.join(ticket, command.timeout_s)
        request.ticket = ticket
        request.trace.event("waits for room")
        await ticket.wait()

    def _patience(self, tenant: str, target_ttft_ms: int) -> Patience:
        usual = self._usual_patience
        target_s = target_ttft_ms / 1000 or self._tenants.target_ttft_s(tenant)
        if not target_s:
            return usual
        return Patience(target_s, max(target_s, usual.default_s))
