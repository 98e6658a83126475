"""A checked request: if one of these exists, it is valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class FinishReason(Enum):
    """Why a sample ended. Values are the wire's numbers."""

    STOP = 1
    LENGTH = 2
    CANCELLED = 3
    ERROR = 4


class PrefillMode(Enum):
    """Where a prompt's uncached rest was computed. Values are the wire's numbers."""

    LOCAL = 1
    REMOTE = 2
    FALLBACK = 3


class Role(Enum):
    """What a process is. Values are the wire's numbers."""

    PREFILL = 1
    DECODE = 2
    KVSTORE = 3


class GuideKind(Enum):
    """What language a guide is written in. Values are the wire's numbers."""

    JSON_SCHEMA = 1
    REGEX = 2
    LARK = 3


@dataclass(frozen=True, slots=True)
class Guide:
    """What an answer must look like: its text, from the first token to the last, matches it."""

    kind: GuideKind
    source: str


# Not frozen: gateway and worker make one for each request, and frozen fields take thrice the time.
@dataclass(slots=True)
class SamplingParams:
    """How tokens are drawn; limits are those of `SamplingParams` in types.proto.

    `temperature == 0` is greedy. `top_k == 0`, `top_p == 1`, `min_p == 0` and a penalty's neutral
    value switch the filter off. Order of application: logit bias, penalties, temperature, top-k,
    top-p, min-p. `max_tokens` and `min_tokens` count tokens behind the prompt, those before a
    migration included. A guide wins over `min_tokens`, `ignore_eos` and `logit_bias`: these choose
    among what it allows. Nobody changes one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 16
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    ignore_eos: bool = False
    seed: int = 0
    logprobs_count: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities of one position, before temperature, bias and penalties."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability) of the likeliest tokens, best first."""


@dataclass(slots=True)
class SequenceTimings:
    """Where one sample's time went; the fields are those of `SequenceTimings` in types.proto."""

    queue_us: int = 0
    prefill_us: int = 0
    handoff_us: int = 0
    decode_us: int = 0
    cached_token_count: int = 0
    fetched_token_count: int = 0
    prefill_cached_token_count: int = 0
    prefill_mode: PrefillMode = PrefillMode.LOCAL
    prefill_worker_id: str = ""
    handoff_bytes: int = 0
    preemption_count: int = 0
    transport: str = ""
