"""What goes into an engine and what comes out of a step. Plain data: no torch here.

What is made for each sequence or token is not frozen, which would take thrice the time; nobody
changes it all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from baton.blocks import BlockKey
from baton.request import FinishReason, SamplingParams, TokenLogprobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes of an engine."""

    num_blocks: int
    """Blocks in the arena."""
    block_size: int = 16
    """Tokens in a block."""
    max_batch_tokens: int = 512
    """Token budget of one step: decode tokens first, prompt chunks with what is left."""
    max_sequences: int = 64
    """Most sequences scheduled in one step."""
    context_len: int = 2048
    """Longest sequence in tokens, prompt and output together."""
    looks_ahead: bool = False
    """Whether a step is launched before the tokens of the one before it have been read."""


class Matcher(Protocol):
    """Which tokens a guide lets follow those that came. Belongs to one sequence and its engine.

    Nothing here raises: what goes wrong is in `fault` from then on.
    """

    @property
    def fault(self) -> str:
        """Why the guide cannot go on, in a sentence for the client; empty: it can."""

    @property
    def is_complete(self) -> bool:
        """Whether the text matches the guide and nothing may follow."""

    def fill(self, mask: NDArray[np.int32]) -> None:
        """Writes the mask of tokens that may come next: bit v % 32 of word v // 32 for token v."""

    def allows(self, token_id: int) -> bool:
        """Whether a token may come next."""

    def advance(self, token_id: int) -> None:
        """Takes a token as the next one."""


@dataclass(slots=True)
class SequenceSpec:
    """A sequence to run. `sequence_id` is unique in its engine."""

    sequence_id: str
    token_ids: Sequence[int]
    """Known tokens: the prompt, then what was emitted before a migration. At least one.

    Long ones are cheapest as `TokenIds`. Never changed."""
    prompt_len: int
    sampling: SamplingParams
    sample_index: int = 0
    cache_salt: str = ""
    priority: int = 0
    """Higher runs first."""
    after: str | None = None
    """Waits until this sequence has computed its known tokens, to share its blocks; may be gone."""
    receive: bool = False
    """Reserve blocks, report `Reserved`, wait for `Engine.resume`: KV may come from outside."""
    matcher: Matcher | None = None
    """Stands behind the known tokens; the sequence's own from `Engine.add` on."""
    prefill_only: bool = False
    """End after one drawn token, whatever it is, and keep the blocks until `Engine.release`."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """A `receive` sequence has its blocks; nobody but their receiver writes into uncached ones.

    `block_ids` cover all known tokens. The first `num_cached_tokens` (a multiple of the block size,
    less than the known tokens) are computed already; `block_keys` name the full blocks of the known
    tokens.
    """

    sequence_id: str
    block_ids: tuple[int, ...]
    block_keys: tuple[BlockKey, ...]
    num_cached_tokens: int


@dataclass(slots=True)
class NewToken:
    """One drawn token."""

    sequence_id: str
    token_id: int
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A `prefill_only` sequence has computed this many tokens: the blocks below are final."""

    sequence_id: str
    num_computed: int
    block_ids: tuple[int, ...]


@dataclass(slots=True)
class SequenceStats:
    """Where a sequence's time went in this engine. Microseconds."""

    queue_us: int = 0
    """From `add` to the first admission."""
    prefill_us: int = 0
    """From the admission to the first drawn token; 0 if that was drawn elsewhere."""
    decode_us: int = 0
    """From the first drawn token to the last."""
    num_cached_tokens: int = 0
    """Known tokens found in the prefix cache at the first admission."""
    num_output_tokens: int = 0
    """Tokens behind the prompt, those known at `add` included."""
    num_preemptions: int = 0


@dataclass(slots=True)
class Finished:
    """A sequence's end; comes once, in or after the step of its last token.

    A `prefill_only` sequence that drew its token finishes with LENGTH.
    """

    sequence_id: str
    reason: FinishReason
    stats: SequenceStats
    error: str = ""
    """Set with ERROR: what went wrong."""
    field: str = ""
    """Set with ERROR: the field of the request that is to blame, if one is."""


class BlockEventKind(Enum):
    """What happened to cached blocks."""

    STORED = 1
    REMOVED = 2
    CLEARED = 3


@dataclass(slots=True)
class BlockEvent:
    """Changes of the prefix cache that follow each other and are of one kind.

    One object for the blocks of a step instead of one for each: a long prompt has a thousand.
    """

    kind: BlockEventKind
    keys: Sequence[BlockKey]
    """In order; none with CLEARED. Of stored blocks each is the parent of the next."""
    parent: BlockKey | None = None
    """Of stored blocks: the one before the first."""
    salt: str = ""
    """Of stored blocks: the cache salt of the sequence that computed them."""


# Not frozen: each step counts before it runs, while it runs and behind it.
@dataclass(slots=True)
class StepLoad:
    """Forward-pass metrics of the step whose tokens are handed out, and the state behind it."""

    num_prompt_tokens: int = 0
    """Tokens computed for sequences that have not drawn yet."""
    num_decode_tokens: int = 0
    """Sequences that computed exactly their newest token."""
    num_context_tokens: int = 0
    """Tokens that the batch's attention read."""
    num_running: int = 0
    num_waiting: int = 0
    num_receiving: int = 0
    num_waiting_tokens: int = 0
    """Known, uncomputed tokens of waiting and running sequences."""
    num_used_blocks: int = 0
    """Blocks that sequences hold."""
    num_blocks: int = 0
    num_preemptions: int = 0
    """Since the start."""
    num_late_draws: int = 0
    """Since the start: steps launched ahead whose draw had to wait for tokens on the host."""
    num_wasted_tokens: int = 0
    """Since the start: tokens drawn ahead for sequences that had ended."""
    step_us: int = 0
    """Of the step whose tokens these are; of one launched ahead, since the one before it ended."""


@dataclass(slots=True)
class StepOutput:
    """All news of one step, in order of time within each list."""

    reserved: list[Reserved] = field(default_factory=list)
    tokens: list[NewToken] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    block_events: list[BlockEvent] = field(default_factory=list)
    load: StepLoad = field(default_factory=StepLoad)
