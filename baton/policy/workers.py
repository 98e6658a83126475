"""What routing knows of requests and workers, and what follows for any request from that."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import Enum
from math import inf

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


# Neither is frozen, that takes three times as long to make. Nobody changes one.
@dataclass(slots=True)
class RouteRequest:
    """What routing needs to know of a request."""

    num_tokens: int
    """Known tokens: the prompt, then what was emitted before a migration."""
    num_sequences: int = 1
    """Samples to draw; they share the prompt's blocks."""
    excluded: Set[str] = frozenset()
    """Workers that must not take it, such as the one it was just lost on."""
    cached_blocks: Mapping[str, int] = field(default_factory=dict)
    """By worker: leading blocks of this request that it caches; those with none are missing."""
    num_stored_blocks: int = 0
    """Leading blocks that kvstore holds, as far as is known."""
    target_ttft_ms: float = 0.0
    target_itl_ms: float = 0.0
    expected_output_tokens: float = 0.0
    """0: nothing is known."""


@dataclass(slots=True)
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


class WorkerState:
    """A view with what follows from it for any request, worked out once per change of the view.

    Nobody changes one. No dataclass: each booking makes one, and this takes half the time.
    """

    __slots__ = (
        "budget",
        "chunk_step_ms",
        "context_ms",
        "decode_context_ms",
        "full_token_ms",
        "itl_ms",
        "max_tokens",
        "next_ms",
        "num_pending_tokens",
        "num_streams",
        "pending_ms",
        "queue_ms",
        "seen_itl_ms",
        "step_ms",
        "token_ms",
        "turns",
        "view",
    )

    def __init__(self, view: WorkerView) -> None:
        learned, steps = view.learned, view.learned.steps
        num_blocks, num_context = view.num_blocks, view.num_used_blocks
        num_streams = view.num_sequences if view.role is Role.DECODE else 0
        num_tokens = view.num_pending_tokens
        self.view = view
        self.max_tokens = num_blocks * view.block_size or inf
        """Tokens of the longest sequence that fits."""
        self.num_streams = num_streams
        """Sequences that would feel a prompt computed here."""
        self.num_pending_tokens = num_tokens
        in_step = min(num_streams, learned.max_sequences)
        self.budget = budget = max(1, learned.max_batch_tokens - in_step)
        """Prompt tokens that fit into a step."""
        self.turns = turns = max(1.0, (num_streams + 1) / learned.max_sequences)
        """Steps per token of a sequence: above 1 where more sequences run than fit into a step."""
        self.token_ms = token_ms = steps.prompt_token_us / 1e3
        self.context_ms = steps.prompt_context_us / 1e3
        """Per token that a prompt's attention reads."""
        self.decode_context_ms = steps.decode_context_us / 1e3
        if num_streams:
            context = min(num_context, num_blocks or num_context) * view.block_size
            itl_ms = steps.decode_us(in_step, context) / 1e3 * turns
            self.next_ms = steps.decode_sequence_us / 1e3
            """What one more sequence adds to a step of decoding; its own context is extra."""
            self.seen_itl_ms = max(itl_ms, learned.itl_us / 1e3)
            """Measured between tokens, prompts of others included; no less than `itl_ms`."""
        else:
            context, itl_ms = 0, 0.0
            self.next_ms = steps.decode_us(1, 0) / 1e3
            self.seen_itl_ms = 0.0
        self.itl_ms = itl_ms
        """A step of decoding only, turns of sequences beyond the engine's limit included."""
        self.chunk_step_ms = chunk_step_ms = steps.prompt_us(0, in_step, context) / 1e3
        """A step with prompt tokens, without what those cost."""
        self.full_token_ms = token_ms + chunk_step_ms / budget
        """A prompt token's part of a step that is full of them."""
        step_ms, pending_ms = itl_ms / turns, 0.0
        if num_tokens:
            step_ms = max(step_ms, chunk_step_ms + token_ms * min(num_tokens, budget))
            pending_ms = -(-num_tokens // budget) * chunk_step_ms + token_ms * num_tokens
        self.step_ms = step_ms
        """The step that it is likely to be in; 0: it is idle."""
        self.pending_ms = pending_ms
        """Until all that is queued is computed."""
        self.queue_ms = step_ms / 2 + pending_ms
        """Until a prompt's first chunk may begin: half the current step, then what is queued."""

    def prompt_ms(self, num_tokens: float, num_cached_tokens: float) -> float:
        """Until so many tokens behind so many cached ones are computed, behind what is queued.

        Steps are filled to the budget; chunk i of a prompt reads what is cached and i chunks.
        """
        total = self.num_pending_tokens + num_tokens
        if total <= 0:
            return 0.0
        own_steps = -(-num_tokens // self.budget)
        read = own_steps * num_cached_tokens + num_tokens * (own_steps + 1) / 2
        num_steps = -(-total // self.budget)
        return num_steps * self.chunk_step_ms + self.token_ms * total + self.context_ms * read

    def num_cached_tokens(self, request: RouteRequest) -> int:
        """The request's tokens that it need not compute; the last one always is."""
        view = self.view
        num_blocks = request.cached_blocks.get(view.worker_id, 0)
        if not num_blocks:
            return 0
        return max(0, min(num_blocks * view.block_size, request.num_tokens - 1))
