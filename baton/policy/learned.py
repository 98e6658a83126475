"""What a worker has learnt about itself and its roads, as it is published with its load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import exp
from types import MappingProxyType
from typing import Any

from baton.policy.fetch import Rate
from baton.policy.stepmodel import PRIOR, StepLearner, StepModel

MAX_ROADS = 32
"""Prefill workers whose roads are published: those used last. The others take the common road."""
ITL_MEMORY_US = 2e6
"""The measured time between tokens fades over so many microseconds of steps."""
SETUP_SHARE = 0.1
"""Weight of one hand-off in the mean of the set-up times."""
CLIP = 3.0
"""A set-up longer than this many means counts as if it took that long."""


@dataclass(frozen=True, slots=True)
class Road:
    """What moving bytes costs: `setup_us + bytes / bytes_per_us`. Priors: a gRPC stream's."""

    setup_us: float = 2000.0
    bytes_per_us: float = 500.0

    def us(self, num_bytes: float) -> float:
        """Microseconds for so many bytes."""
        return self.setup_us + num_bytes / self.bytes_per_us

    def to_values(self) -> list[float]:
        """The form in which it is written."""
        return [float(f"{self.setup_us:.4g}"), float(f"{self.bytes_per_us:.4g}")]

    @classmethod
    def from_values(cls, values: object) -> Road:
        """The road behind that form. Raises ValueError for anything else."""
        if not isinstance(values, list) or len(values) != 2:
            raise ValueError(f"a road is two numbers, not {values!r:.80}")
        setup_us, bytes_per_us = map(float, values)
        if not (0 <= setup_us < 1e12 and 0 < bytes_per_us < 1e12):
            raise ValueError(f"a road is two positive numbers, not {values!r:.80}")
        return cls(setup_us, bytes_per_us)


def should_fetch_first(fetch: Road, handoff: Road, num_bytes: float) -> bool:
    """Whether a decode worker fetches blocks itself before a hand-off of the others.

    The prefill worker needs them anyway, to compute what follows, so they can come with the
    hand-off: no fetch goes before it, and computing hides much of the moving. Nothing is hidden in
    this comparison, so a hand-off that is chosen here is not the slower way.
    """
    return fetch.us(num_bytes) < num_bytes / handoff.bytes_per_us


COMMON_ROAD = Road()


@dataclass(frozen=True, slots=True)
class Learned:
    """What routing predicts a worker's times from. The defaults are priors."""

    steps: StepModel = PRIOR
    itl_us: float = 0.0
    """Measured between two tokens of a sequence, over about the last two seconds of work, steps
    with other sequences' prompts included; 0: nothing measured."""
    max_batch_tokens: int = 512
    max_sequences: int = 64
    fetch: Road | None = None
    """From kvstore to this worker; None: it uses none."""
    common: Road = COMMON_ROAD
    """From any prefill worker to this decode worker."""
    roads: Mapping[str, Road] = field(default_factory=lambda: MappingProxyType({}))
    """From single prefill workers, by worker id."""

    def road(self, prefill_worker_id: str) -> Road:
        """From this prefill worker; the common one if nothing was measured with it."""
        return self.roads.get(prefill_worker_id, self.common)

    def to_values(self) -> dict[str, object]:
        """The form in which it is written, as JSON."""
        return {
            "steps": self.steps.to_values(),
            "itl_us": round(self.itl_us, 1),
            "max_batch_tokens": self.max_batch_tokens,
            "max_sequences": self.max_sequences,
            "fetch": self.fetch.to_values() if self.fetch is not None else None,
            "common": self.common.to_values(),
            "roads": {name: road.to_values() for name, road in self.roads.items()},
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Learned:
        """What is behind that form; what is missing is the prior. Raises ValueError."""
        given = {name: read(values[name]) for name, read in _READERS.items() if name in values}
        return cls(**given)


def _roads(values: object) -> dict[str, Road]:
    if not isinstance(values, Mapping):
        raise ValueError(f"roads are an object, not {values!r:.80}")
    return {str(name): Road.from_values(road) for name, road in values.items()}


def _fetch(value: object) -> Road | None:
    return None if value is None else Road.from_values(value)


def _duration(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError(f"a duration is a number of microseconds, not {value!r:.80}")
    return float(value)


def _size(value: object) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"a size is a positive integer, not {value!r:.80}")
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "steps": StepModel.from_values,
    "itl_us": _duration,
    "max_batch_tokens": _size,
    "max_sequences": _size,
    "fetch": _fetch,
    "common": Road.from_values,
    "roads": _roads,
}
NOTHING_LEARNED = Learned()


class RoadLearner:
    """Learns a road: its set-up as a clipped mean, its bandwidth as a fading rate."""

    def __init__(self, prior: Road = COMMON_ROAD) -> None:
        self._setup_us = prior.setup_us
        # A bandwidth is known after about one megabyte.
        self._rate = Rate(prior.bytes_per_us * 1e6, 1e6 / (prior.bytes_per_us * 1e6))

    @property
    def road(self) -> Road:
        """The estimate."""
        return Road(self._setup_us, self._rate.per_second / 1e6)

    def observe(self, setup_us: float, num_bytes: int, moving_us: float) -> None:
        """So many bytes took so long to move, and all around it took so long."""
        self._rate.observe(num_bytes, moving_us / 1e6)
        clipped = min(max(setup_us, 0.0), CLIP * max(self._setup_us, 100.0))
        self._setup_us += SETUP_SHARE * (clipped - self._setup_us)


class WorkerLearner:
    """All that one worker learns. Belongs to its event loop."""

    def __init__(self, max_batch_tokens: int = 512, max_sequences: int = 64) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._max_sequences = max_sequences
        self._steps = StepLearner()
        self._waited_us = 0.0
        self._num_tokens = 0.0
        self.fetch: Road | None = None
        self._common = RoadLearner()
        self._roads: dict[str, RoadLearner] = {}

    def observe_step(
        self, num_prompt_tokens: int, num_sequences: int, num_context_tokens: int, step_us: float
    ) -> float:
        """Takes a step; returns its time over what had been predicted, 1.0 where they agree."""
        predicted = self._steps.predicted_us(num_prompt_tokens, num_sequences, num_context_tokens)
        self._steps.observe(num_prompt_tokens, num_sequences, num_context_tokens, step_us)
        if num_sequences:
            kept = exp(-step_us / ITL_MEMORY_US)
            self._waited_us = kept * self._waited_us + num_sequences * step_us
            self._num_tokens = kept * self._num_tokens + num_sequences
        return step_us / predicted

    def observe_handoff(
        self, prefill_worker_id: str, setup_us: float, num_bytes: int, moving_us: float
    ) -> None:
        """A hand-off from a prefill worker: what it took beyond computing, queueing and moving."""
        road = self._roads.pop(prefill_worker_id, None) or RoadLearner(self._common.road)
        self._roads[prefill_worker_id] = road  # the newest is last
        if len(self._roads) > MAX_ROADS:
            del self._roads[next(iter(self._roads))]
        for learner in (road, self._common):
            learner.observe(setup_us, num_bytes, moving_us)

    def road(self, prefill_worker_id: str) -> Road:
        """As `Learned.road`."""
        return self._roads.get(prefill_worker_id, self._common).road

    def learned(self) -> Learned:
        """All of it."""
        return Learned(
            steps=self._steps.model(),
            itl_us=self._waited_us / self._num_tokens if self._num_tokens else 0.0,
            max_batch_tokens=self._max_batch_tokens,
            max_sequences=self._max_sequences,
            fetch=self.fetch,
            common=self._common.road,
            roads={name: learner.road for name, learner in self._roads.items()},
        )
