"""What both front doors (gRPC, OpenAI HTTP) ask of the gateway, and what they get."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from baton.request import FinishReason, Guide, SamplingParams, SequenceTimings, TokenLogprobs
from baton.text import ModelText
from baton.tokens import TokenIds

if TYPE_CHECKING:
    from services.gateway.mailbox import Tray


MAX_PRIORITY = 100
"""Of a request, either way."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that live workers serve."""

    name: str
    context_len: int
    num_decode_workers: int
    num_prefill_workers: int
    created: int
    """Unix seconds at which this gateway first saw it."""


@dataclass(frozen=True, slots=True)
class SloHints:
    """What a client hopes for, and what it knows of its own request; 0 where it said nothing."""

    target_ttft_ms: int = 0
    target_itl_ms: int = 0
    expected_output_count: int = 0


NO_HINTS = SloHints()


# Not frozen, as `SamplingParams` is not. Nobody changes one.
@dataclass(slots=True)
class GenerateCommand:
    """A checked request: tokenised, in range, fully resolved."""

    request_id: str
    model: str
    token_ids: TokenIds
    sampling: SamplingParams
    sample_count: int = 1
    cache_salt: str = ""
    """The tenant is part of it: tenants share no cached block."""
    tenant: str = ""
    retry_key: str = ""
    """With the tenant, names what the client may send again; empty: nothing."""
    slo: SloHints = NO_HINTS
    priority: int = 0
    timeout_s: float = 600.0
    want_text: bool = True
    traceparent: str = ""
    """The client's W3C trace context; empty: none came."""
    arrived_at: float = 0.0
    """`time.monotonic()` when the request arrived."""
    tokenize_us: int = 0


# Not frozen: every request makes one or two.
@dataclass(slots=True)
class Visitor:
    """Whose request it is and what it wants, before anything is spent on it."""

    tenant: str = ""
    api_key: str = ""
    priority: int = 0
    target_ttft_ms: int = 0
    retry_key: str = ""
    tenant_field: str = "tenant"
    """What the client calls the tenant."""


# Not frozen: there is one per token, and a frozen one takes three times as long to make.
@dataclass(slots=True)
class Chunk:
    """New tokens of one sample. Nobody changes one."""

    sample_index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    """Set in the sample's last chunk: STOP, LENGTH or CANCELLED."""
    stop_string: str = ""
    stop_token_id: int | None = None


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """How one sample went."""

    sample_index: int
    finish_reason: FinishReason
    num_output_tokens: int
    timings: SequenceTimings
    decode_worker_id: str
    num_migrations: int = 0


@dataclass(frozen=True, slots=True)
class Final:
    """The end of a request; comes exactly once, after the last chunk."""

    request_id: str
    model: str
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    samples: tuple[SampleSummary, ...] = field(default_factory=tuple)
    ttft_us: int = 0
    total_us: int = 0
    tokenize_us: int = 0
    route_us: int = 0
    seed: int = 0
    trace_id: str = ""
    mean_itl_us: int = 0
    """0: no sample has two tokens."""
    ttft_met: bool | None = None
    itl_met: bool | None = None
    """None: no target was given, or nothing was measured."""


class Gateway(Protocol):
    """The gateway's heart, which the front doors call. All methods run on the event loop."""

    @property
    def staleness_s(self) -> float:
        """Age of what is known about workers, in seconds."""

    def models(self) -> list[ModelInfo]:
        """Models that live workers serve; may be empty."""

    async def text(self, model: str) -> tuple[ModelInfo, ModelText]:
        """The model by name (empty: the only one). Raises `UnknownModel` or `NoWorker`."""

    def welcome(self, model: str, visitor: Visitor) -> Visitor:
        """The tenant and the priority that count, for a request to the model of this name.

        Raises `Overloaded` for one that would be refused whatever its prompt, and `InvalidRequest`
        for one whose key is another tenant's.
        """

    async def encode(
        self, text: ModelText, prompt: str, add_special_tokens: bool = True
    ) -> TokenIds:
        """Tokenises, long texts in a thread; a rendered chat carries its special tokens already."""

    async def guide_fault(self, model: str, guide: Guide) -> str:
        """Why a model cannot follow a guide, to stand behind the guide's name; empty: it can."""

    def generate(self, command: GenerateCommand) -> AsyncGenerator[Chunk | Final, None]:
        """Chunks, then one `Final`; or raises a `BatonError`. Closing it cancels the request."""

    async def attend(self, command: GenerateCommand, tray: Tray) -> Final:
        """As `generate`, for a caller that takes the chunks out of the tray itself.

        Returns when the last chunk is in it. Cancelling it cancels the request.
        """
