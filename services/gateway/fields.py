"""What a client said, before anything of it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from baton.request import Guide
from services.gateway.types import NO_HINTS, SloHints

NO_BIAS: Mapping[int, float] = MappingProxyType({})


# Not frozen: every request makes two or three, and thirty frozen fields take 6 microseconds to set.
@dataclass(slots=True, kw_only=True)
class GenerateFields:
    """A request as it came. None, or the neutral value, where the client said nothing.

    The names are those of `GenerateRequest` and `SamplingParams` on the wire; so are the limits.
    """

    request_id: str = ""
    retry_key: str = ""
    """The part of the client's choice that names what it may send again; empty: nothing."""
    model: str = ""
    text: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    token_ids: Sequence[int] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 0
    """0: `fallback_max_tokens`."""
    fallback_max_tokens: int = 0
    """As far as the context allows; 0: as many as it holds."""
    min_tokens: int = 0
    stop_token_ids: Sequence[int] = ()
    stop_strings: Sequence[str] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs_count: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    guide: Guide | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    """For the chat template to show, as OpenAI's `tools`."""
    template_arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What else the chat template is given, such as `enable_thinking`."""
    sample_count: int = 0
    """0: one."""
    cache_salt: str = ""
    tenant: str = ""
    api_key: str = ""
    """May name the tenant, if the gateway knows it."""
    slo: SloHints = NO_HINTS
    priority: int = 0
    timeout_s: float = 0.0
    """0: the gateway's limit."""
    want_text: bool = True
    traceparent: str = ""
