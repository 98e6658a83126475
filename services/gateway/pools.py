"""What the workers of a model take at a time, as far as this gateway may use it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from baton.policy.admission import Pool
from baton.policy.learned import Learned
from baton.policy.shares import NOBODY, WHOLE, Line, part_of
from baton.registry.bookings import BookingBoard
from baton.registry.records import LoadRecord
from baton.request import Role
from services.gateway.fleet import Fleet

BEGINNING_SHARE = 1 / 8
"""Sequences beyond those of an engine step: their prompts are computed while others end."""
STEPS_AHEAD = 2
"""Engine steps' worth of prompt tokens at a worker, at least: one runs, one is ready behind it."""
AHEAD_S = 0.4
"""And as many as it computes in this time. Routing needs to see queues to spread prompts over
prefill and decode workers, and steps that are full: see the decision in docs/architecture.md."""
AHEAD_SHARE = 0.4
"""Of the target that requests have by default: what waits at workers is not waited elsewhere."""
NUM_LOOKS = 5
"""What other gateways have in flight is the least of so many looks: reports are a little old, and
count sequences that have ended here since."""

_NO_LOAD = LoadRecord()


class FleetPools:
    """Looks at the fleet, and at what other gateways do with it."""

    def __init__(
        self,
        fleet: Fleet,
        board: BookingBoard,
        max_sequences: int = 0,
        target_ttft_s: float = 0.0,
        weight_of: Callable[[str], float] = lambda _: 1.0,
    ) -> None:
        """`max_sequences` per decode worker; 0: what an engine step of it takes, and an eighth.

        `weight_of` names a tenant's weight, for dealing out room between gateways.
        """
        self._ahead_s = min(AHEAD_S, AHEAD_SHARE * (target_ttft_s or inf))
        self._weight_of = weight_of
        self._fleet = fleet
        self._board = board
        self._max_sequences = max_sequences
        self._foreign: dict[str, deque[int]] = {}

    def __call__(
        self, model: str, own_sequences: int, own_tokens: float, line: Line = NOBODY
    ) -> Pool:
        """See `LookAtPool`. Without a worker, the pool of one that may come."""
        directory = self._fleet.directory
        away = self._fleet.unreachable()
        num_workers = num_sequences = num_tokens = reported = promised = 0
        rates: list[float] = []
        for record in directory.workers.values():
            is_able = record.role is not Role.KVSTORE and not record.is_draining
            if record.model != model or not is_able or record.worker_id in away:
                continue
            load = directory.loads.get(record.worker_id, _NO_LOAD)
            num_workers += 1
            rate = tokens_per_s(load.learned)
            num_tokens += max(
                STEPS_AHEAD * load.learned.max_batch_tokens, round(self._ahead_s * rate)
            )
            if rate:
                rates.append(rate)
            promised += self._board.promised(record.worker_id).num_tokens
            if record.role is Role.DECODE:
                step = load.learned.max_sequences
                num_sequences += self._max_sequences or round(step * (1 + BEGINNING_SHARE))
                reported += load.num_sequences
        if not num_sequences:
            return Pool()
        foreign = self._foreign.setdefault(model, deque(maxlen=NUM_LOOKS))
        foreign.append(max(0, reported - own_sequences))
        part = part_of(line, self._board.other_lines(model), self._weight_of)
        left_sequences = min(round(part.room * num_sequences), num_sequences - min(foreign))
        left_tokens = min(part.room * num_tokens, num_tokens - max(0.0, promised - own_tokens))
        # A gateway may always have one request per worker there, whatever the others do.
        return Pool(
            num_workers=num_workers,
            num_sequences=max(num_workers, left_sequences),
            num_tokens=max(1.0, left_tokens),
            tokens_per_s=sum(rates) / len(rates) if rates else 0.0,
            tenants=None if part is WHOLE else part.tenants,
        )


def tokens_per_s(learned: Learned) -> float:
    """Prompt tokens in full steps without other work or much context; 0: nothing learnt yet."""
    if not learned.steps.num_steps:
        return 0.0
    num_tokens = learned.max_batch_tokens
    return 1e6 * num_tokens / max(1.0, learned.steps.prompt_us(num_tokens, 0, num_tokens))
