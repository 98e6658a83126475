"""What goes into the client and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from baton.request import FinishReason, Guide, SequenceTimings

Message = Mapping[str, str]
"""One turn of a conversation: `role` and `content`."""

Prompt = str | Sequence[Message] | Sequence[int]
"""A text, a conversation, or token ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to draw. None: the model's default. Limits: see `SamplingParams` in types.proto."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int | None = None
    """None: as many as the context holds."""
    min_tokens: int = 0
    stop_token_ids: Sequence[int] = ()
    stop_strings: Sequence[str] = ()
    ignore_eos: bool = False
    seed: int | None = None
    """None: the gateway draws one; `Final.seed` tells it."""
    logprobs_count: int | None = None
    """Likeliest tokens to report beside the drawn one; None: no log-probabilities at all."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    guide: Guide | None = None
    """What the text must look like, from its first to its last character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What you hope for, and what you know of your request; 0: nothing said."""

    target_ttft_ms: int = 0
    target_itl_ms: int = 0
    expected_output_count: int = 0


class Options(TypedDict, total=False):
    """What else a request may say."""

    model: str
    """Empty: the only one served."""
    sample_count: int
    request_id: str
    """One of your own makes the request safe to send again; see docs/interfaces.md."""
    cache_salt: str
    """Requests with different salts share no cached block."""
    tenant: str
    """Whom the request is for; tenants share no cached block."""
    slo: Slo
    """What you hope for; the final says whether it was met."""
    priority: int
    """Higher runs first."""
    timeout_s: float
    """Until the request is given up; the gateway has a limit of its own."""
    return_token_ids: bool
    omit_text: bool
    traceparent: str
    """W3C trace context."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its natural-log probability, before temperature and penalties."""

    token_id: int
    logprob: float
    text: str


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log-probabilities of one position: the token drawn, and the likeliest ones, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one sample."""

    sample_index: int
    text: str
    token_ids: tuple[int, ...]
    """Empty unless asked for."""
    logprobs: tuple[PositionLogprobs, ...]
    finish_reason: FinishReason | None
    """Set in the sample's last chunk."""
    stop_string: str
    stop_token_id: int | None


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """How one sample went."""

    sample_index: int
    finish_reason: FinishReason
    num_output_tokens: int
    timings: SequenceTimings
    decode_worker_id: str
    num_migrations: int


@dataclass(frozen=True, slots=True)
class Final:
    """The end of a request, with what it took."""

    request_id: str
    model: str
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    samples: tuple[SampleSummary, ...]
    ttft_us: int
    """From arrival at the gateway to the first token on its way back."""
    total_us: int
    tokenize_us: int
    route_us: int
    seed: int
    trace_id: str
    mean_itl_us: int = 0
    """Between two tokens of one sample; 0: no sample has two."""
    ttft_met: bool | None = None
    itl_met: bool | None = None
    """Whether targets were met; None: there was none, or nothing to measure."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is served."""

    name: str
    context_len: int
    num_decode_workers: int
    num_prefill_workers: int
