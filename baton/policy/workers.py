"""What routing knows of requests and workers, and what follows for any request from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import ceil
from types import MappingProxyType

from baton.policy.learned import NOTHING_LEARNED, Learned
from baton.request import Role


class Prefill(Enum):
    """Who may compute prompts."""

    CHOSEN = "chosen"
    """Whoever costs least."""
    LOCAL = "local"
    """The decode worker, always."""
    REMOTE = "remote"
    """A prefill worker, if there is one."""


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """The policy's numbers."""

    prefill: Prefill = Prefill.CHOSEN
    remote_threshold_tokens: int | None = None
    """A fixed rule in place of the models: more uncached tokens than this are computed by a prefill
    worker, others by the decode worker. None: no rule."""
    target_ttft_ms: float = 1000.0
    """For requests that say nothing."""
    target_itl_ms: float = 50.0
    """For requests that say nothing, and for the streams that a worker has already."""
    output_tokens: float = 128.0
    """Expected length of answers, while nothing better is known."""
    miss_factor: float = 1.0
    """A missed target costs as much as this many times `target_ttft_ms`."""
    stall_weight: float = 0.8
    """A millisecond that a prompt holds up one running stream, against one of its own TTFT."""
    share_weight: float = 0.1
    """A millisecond by which tokens come later while the sequence stays, against the same."""
    tie_share: float = 0.05
    """Options within this share of the least cost's TTFT, or `tie_ms`, are near ties."""
    tie_ms: float = 1.0
    shortlist: int = 8
    """Most workers of a role that are weighed one by one."""


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What routing needs to know of a request."""

    num_tokens: int
    """Known tokens: the prompt, then what was emitted before a migration."""
    num_sequences: int = 1
    """Samples to draw; they share the prompt's blocks."""
    excluded: frozenset[str] = frozenset()
    """Workers that must not take it, such as the one it was just lost on."""
    cached_blocks: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """By worker: leading blocks of this request that it caches; those with none are missing."""
    num_stored_blocks: int = 0
    """Leading blocks that kvstore holds, as far as is known."""
    target_ttft_ms: float = 0.0
    target_itl_ms: float = 0.0
    expected_output_tokens: float = 0.0
    """0: nothing is known."""


@dataclass(frozen=True, slots=True)
class WorkerView:
    """What is known of a worker at this moment, all of it possibly a little old."""

    worker_id: str
    role: Role
    namespace: str = ""
    """Only workers of one namespace may hand blocks to each other."""
    block_size: int = 16
    block_bytes: int = 0
    num_blocks: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_receiving: int = 0
    num_queued_tokens: int = 0
    """Known tokens that it still has to compute, as it said."""
    num_used_blocks: int = 0
    num_booked_sequences: int = 0
    """That gateways have there, from submission to end."""
    num_booked_tokens: int = 0
    """That gateways have there to be computed, until the first token of each request."""
    num_new_tokens: int = 0
    """The part of the booked tokens that the worker's word may not contain yet."""
    num_gone_sequences: int = 0
    """That have ended since and may still be contained in the worker's word."""
    num_gone_tokens: int = 0
    learned: Learned = NOTHING_LEARNED
    failure_ms: float = 0.0
    """What to expect to lose by its failing."""
    is_reachable: bool = True
    is_draining: bool = False

    @property
    def num_sequences(self) -> int:
        """Sequences that it has or is about to have: by the books, or by its own word if larger."""
        said = self.num_running + self.num_waiting + self.num_receiving - self.num_gone_sequences
        return max(self.num_booked_sequences, said)

    @property
    def num_pending_tokens(self) -> int:
        """Tokens that it has or is about to have to compute.

        Books miss progress; a worker's word is some tenths of a second old and misses what is new.
        Both are too high rather than too low, so the lower one is nearer.
        """
        said = self.num_queued_tokens + self.num_new_tokens
        if self.num_booked_tokens:
            return min(self.num_booked_tokens, said)
        return max(0, self.num_queued_tokens - self.num_gone_tokens)


# Not frozen, that takes three times as long to make. Nobody changes one.
@dataclass(slots=True)
class WorkerState:
    """A view with what follows from it for any request, worked out once per change of the view."""

    view: WorkerView
    num_streams: int
    """Sequences that would feel a prompt computed here."""
    num_pending_tokens: int
    budget: int
    """Prompt tokens that fit into a step."""
    chunk_step_ms: float
    """A step with prompt tokens, without what those cost."""
    token_ms: float
    context_ms: float
    """Per token that a prompt's attention reads."""
    itl_ms: float
    """A step of decoding only, turns of sequences beyond the engine's limit included."""
    seen_itl_ms: float
    """Measured between tokens, prompts of others included; no less than `itl_ms`."""
    next_ms: float
    """What one more sequence adds to a step of decoding; its own context is extra."""
    decode_context_ms: float
    turns: float
    """Steps per token of a sequence: above 1 where more sequences run than fit into a step."""
    step_ms: float
    """The step that it is likely to be in; 0: it is idle."""

    @classmethod
    def of(cls, view: WorkerView) -> WorkerState:
        """What follows from a view."""
        learned = view.learned
        steps = learned.steps
        num_streams = view.num_sequences if view.role is Role.DECODE else 0
        num_tokens = view.num_pending_tokens
        context = min(view.num_used_blocks, view.num_blocks or view.num_used_blocks)
        num_context = context * view.block_size if num_streams else 0
        in_step = min(num_streams, learned.max_sequences)
        turns = max(1.0, (num_streams + 1) / learned.max_sequences)
        budget = max(1, learned.max_batch_tokens - in_step)
        chunk_step_ms = steps.prompt_us(0, in_step, num_context) / 1e3
        itl_ms = steps.decode_us(in_step, num_context) / 1e3 * turns if num_streams else 0.0
        token_ms = steps.prompt_token_us / 1e3
        step_ms = itl_ms / turns
        if num_tokens:
            step_ms = max(step_ms, chunk_step_ms + token_ms * min(num_tokens, budget))
        alone_ms = steps.decode_us(1, 0) / 1e3
        return cls(
            view=view,
            num_streams=num_streams,
            num_pending_tokens=num_tokens,
            budget=budget,
            chunk_step_ms=chunk_step_ms,
            token_ms=token_ms,
            context_ms=steps.prompt_context_us / 1e3,
            itl_ms=itl_ms,
            seen_itl_ms=max(itl_ms, learned.itl_us / 1e3) if num_streams else 0.0,
            next_ms=(steps.decode_sequence_us / 1e3) if num_streams else alone_ms,
            decode_context_ms=steps.decode_context_us / 1e3,
            turns=turns,
            step_ms=step_ms,
        )

    def prompt_ms(self, num_tokens: float, num_cached_tokens: float) -> float:
        """Until so many tokens behind so many cached ones are computed, behind what is queued.

        Steps are filled to the budget; chunk i of a prompt reads what is cached and i chunks.
        """
        total = self.num_pending_tokens + num_tokens
        if total <= 0:
            return 0.0
        own_steps = ceil(num_tokens / self.budget)
        read = own_steps * num_cached_tokens + num_tokens * (own_steps + 1) / 2
        num_steps = ceil(total / self.budget)
        return num_steps * self.chunk_step_ms + self.token_ms * total + self.context_ms * read

    def num_cached_tokens(self, request: RouteRequest) -> int:
        """The request's tokens that it need not compute; the last one always is."""
        cached = request.cached_blocks.get(self.view.worker_id, 0) * self.view.block_size
        return max(0, min(cached, request.num_tokens - 1))
