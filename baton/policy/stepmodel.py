"""How long an engine's step takes, learnt from the steps that it ran."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_BINS = 64
"""Kinds of steps that are remembered; the one not seen for longest is forgotten first."""
KEPT_STEPS = 30
"""Weight of a kind's past: about its last so many steps count."""
CLIP = 3.0
"""A step this many mean deviations off its kind's mean counts as if it were that far off."""
OUTLIER_SHARE = 0.3
"""A kind this far off the fit, relative to its time, pulls no harder than at this distance."""
PRIOR_WEIGHT = 1e-3
"""What a coefficient's deviation from its prior by its scale costs: as much as one kind of step
that is 3 % off."""
NUM_REWEIGHTINGS = 2
MAX_STEP_US = 1e9


@dataclass(frozen=True, slots=True)
class StepModel:
    """Microseconds of a step, linear in what it does; all coefficients are at least 0.

    Two lines, because the constant part of a step that computes prompt tokens hides other things
    than that of one that doesn't. The defaults are those of `FetchPolicy`: 5,000 tokens a second.
    """

    prompt_step_us: float = 2000.0
    prompt_token_us: float = 200.0
    """Per prompt token computed."""
    prompt_context_us: float = 0.0
    """Per token that attention reads, in a step with prompt tokens."""
    prompt_sequence_us: float = 100.0
    """Per sequence that computes one token beside them."""
    decode_step_us: float = 2000.0
    decode_sequence_us: float = 100.0
    decode_context_us: float = 0.0
    num_steps: float = 0
    """Steps that it was learnt from; 0: the prior."""

    def prompt_us(
        self, num_tokens: float, num_sequences: float, num_context_tokens: float
    ) -> float:
        """A step that computes prompt tokens beside sequences that decode."""
        return (
            self.prompt_step_us
            + self.prompt_token_us * num_tokens
            + self.prompt_sequence_us * num_sequences
            + self.prompt_context_us * num_context_tokens
        )

    def decode_us(self, num_sequences: float, num_context_tokens: float) -> float:
        """A step in which all sequences compute one token."""
        return (
            self.decode_step_us
            + self.decode_sequence_us * num_sequences
            + self.decode_context_us * num_context_tokens
        )

    def to_values(self) -> list[float]:
        """The form in which it is written: coefficients in order, to six digits, then the count."""
        numbers = (getattr(self, name) for name in _COEFFICIENTS)
        return [*(float(f"{number:.6g}") for number in numbers), self.num_steps]

    @classmethod
    def from_values(cls, values: object) -> StepModel:
        """The model behind that form. Raises ValueError for anything else."""
        if not isinstance(values, list):
            raise ValueError(f"a step model is a list of numbers, not {values!r:.80}")
        try:
            numbers = [float(value) for value in values]
        except TypeError as error:
            raise ValueError(f"a step model is a list of numbers, not {values!r:.80}") from error
        if len(numbers) != len(_COEFFICIENTS) + 1 or not all(0 <= x < 1e12 for x in numbers):
            raise ValueError(f"a step model is 7 coefficients and a count, not {values!r:.80}")
        return cls(*numbers)


_COEFFICIENTS = (
    "prompt_step_us",
    "prompt_token_us",
    "prompt_context_us",
    "prompt_sequence_us",
    "decode_step_us",
    "decode_sequence_us",
    "decode_context_us",
)
PRIOR = StepModel()
CONTEXT_SCALE_US = 0.05
"""What a context token's microseconds may be of: 128 KB of KV at 2.6 TB/s."""


class StepLearner:
    """Fits a `StepModel` to an engine's steps.

    Steps are pooled by kind, an octave of each feature: so a thousand steps alike weigh as much as
    thirty, and what a large batch costs is not forgotten while only small ones come. Within a kind,
    means fade and outliers are clipped. Between kinds the fit minimises relative errors, reweighted
    after Huber, with a weak pull towards the prior and no negative coefficient.
    """

    def __init__(self) -> None:
        prior = PRIOR
        self._prompt = _Line(
            (prior.prompt_step_us, prior.prompt_token_us, 0.0, prior.prompt_sequence_us),
            (prior.prompt_step_us, prior.prompt_token_us, CONTEXT_SCALE_US, 100.0),
        )
        self._decode = _Line(
            (prior.decode_step_us, prior.decode_sequence_us, 0.0),
            (prior.decode_step_us, prior.decode_sequence_us, CONTEXT_SCALE_US),
        )
        self._num_steps = 0
        self._model = PRIOR
        self._is_fitted = True

    def observe(
        self, num_prompt_tokens: int, num_sequences: int, num_context_tokens: int, step_us: float
    ) -> None:
        """A step was run. One without work, or of no believable time, teaches nothing."""
        if not 1 <= step_us <= MAX_STEP_US:
            return
        if num_prompt_tokens > 0:
            features = (1.0, num_prompt_tokens, num_context_tokens, num_sequences)
            self._prompt.observe(features, step_us)
        elif num_sequences > 0:
            self._decode.observe((1.0, num_sequences, num_context_tokens), step_us)
        else:
            return
        self._num_steps += 1
        self._is_fitted = False

    def predicted_us(
        self, num_prompt_tokens: int, num_sequences: int, num_context_tokens: int
    ) -> float:
        """What the newest fit says of a step."""
        if num_prompt_tokens > 0:
            return self._model.prompt_us(num_prompt_tokens, num_sequences, num_context_tokens)
        return self._model.decode_us(num_sequences, num_context_tokens)

    def model(self) -> StepModel:
        """The fit to all steps so far: some tenths of a millisecond where there are new ones."""
        if not self._is_fitted:
            prompt, decode = self._prompt.fit(), self._decode.fit()
            self._model = StepModel(*[*prompt, *decode, self._num_steps])
            self._is_fitted = True
        return self._model


# Neither frozen: one is changed with every step.
@dataclass(slots=True)
class _Kind:
    """Steps alike: fading means."""

    features: list[float]
    step_us: float
    deviation_us: float
    num_steps: int
    last_seen: int


class _Line:
    """Robust regression of a step's time on its features, the first of which is 1."""

    def __init__(self, prior: Sequence[float], scales: Sequence[float]) -> None:
        self._prior = list(prior)
        self._scales = list(scales)
        self._kinds: dict[tuple[int, ...], _Kind] = {}
        self._num_seen = 0

    def observe(self, features: tuple[float, ...], step_us: float) -> None:
        """Adds a step to its kind."""
        self._num_seen += 1
        key = tuple(int(feature).bit_length() for feature in features[1:])
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= MAX_BINS:
                del self._kinds[min(self._kinds, key=lambda k: self._kinds[k].last_seen)]
            # Nothing is known of how these spread: a tenth, until they show it.
            self._kinds[key] = _Kind(list(features), step_us, step_us / 10, 1, self._num_seen)
            return
        kind.num_steps += 1
        kind.last_seen = self._num_seen
        share = 1.0 / min(kind.num_steps, KEPT_STEPS)
        distance = abs(step_us - kind.step_us)
        limit = CLIP * kind.deviation_us
        # Far steps widen what counts as far: a machine that became slower is believed soon.
        kind.deviation_us += (min(distance, 2 * limit) - kind.deviation_us) * share
        if kind.num_steps <= 3:
            # The first of a kind may itself be the outlier: the lower of them is nearer to truth.
            share = 0.7 if step_us < kind.step_us else 0.3
        elif distance > limit:
            share *= limit / distance
        kind.step_us += (step_us - kind.step_us) * share
        for at in range(1, len(features)):
            kind.features[at] += (features[at] - kind.features[at]) * share

    def fit(self) -> list[float]:
        """The coefficients."""
        if not self._kinds:
            return list(self._prior)
        # Relative errors, coefficients in units of their scales.
        rows = [
            [x * scale / kind.step_us for x, scale in zip(kind.features, self._scales, strict=True)]
            for kind in self._kinds.values()
        ]
        trust = [(min(k.num_steps, KEPT_STEPS) / KEPT_STEPS) ** 0.5 for k in self._kinds.values()]
        prior = [x / scale for x, scale in zip(self._prior, self._scales, strict=True)]
        weights = trust
        answer = prior
        for _ in range(NUM_REWEIGHTINGS):
            answer = _solve(rows, weights, prior)
            weights = [
                share * min(1.0, OUTLIER_SHARE / max(abs(_dot(row, answer) - 1.0), 1e-9))
                for row, share in zip(rows, trust, strict=True)
            ]
        return [x * scale for x, scale in zip(answer, self._scales, strict=True)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(left, right, strict=True))


def _solve(
    rows: Sequence[Sequence[float]], weights: Sequence[float], prior: Sequence[float]
) -> list[float]:
    """Minimises sum(weights (rows x - 1)^2) + PRIOR_WEIGHT |x - prior|^2 over x >= 0.

    Coefficients that come out negative are taken out one by one, the most negative first.
    """
    size = len(prior)
    normal = [[PRIOR_WEIGHT * (i == j) for j in range(size)] for i in range(size)]
    right = [PRIOR_WEIGHT * x for x in prior]
    for row, weight in zip(rows, weights, strict=True):
        for i in range(size):
            weighted = weight * row[i]
            right[i] += weighted
            line = normal[i]
            for j in range(size):
                line[j] += weighted * row[j]
    free = list(range(size))
    answer = [0.0] * size
    while free:
        part = _eliminate([[normal[i][j] for j in free] + [right[i]] for i in free])
        if min(part) >= 0:
            for i, x in zip(free, part, strict=True):
                answer[i] = x
            return answer
        del free[part.index(min(part))]
    return answer


def _eliminate(lines: list[list[float]]) -> list[float]:
    """Solves a few linear equations, each with its right side last, by Gauss with pivots."""
    size = len(lines)
    for at in range(size):
        pivot = max(range(at, size), key=lambda i: abs(lines[i][at]))
        lines[at], lines[pivot] = lines[pivot], lines[at]
        head = lines[at]
        for line in lines[at + 1 :]:
            factor = line[at] / head[at]
            for j in range(at, size + 1):
                line[j] -= factor * head[j]
    answer = [0.0] * size
    for at in reversed(range(size)):
        line = lines[at]
        rest = sum(line[j] * answer[j] for j in range(at + 1, size))
        answer[at] = (line[size] - rest) / line[at]
    return answer
