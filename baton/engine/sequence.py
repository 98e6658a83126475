"""A sequence's state in an engine: tokens known, tokens computed, blocks held."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from baton.blocks import BlockKey
from baton.engine.types import SequenceSpec, SequenceStats
from baton.request import FinishReason

if TYPE_CHECKING:
    from baton.engine.sampling import DrawState


class SequenceState(Enum):
    """Where a sequence is. Those that receive or run hold blocks."""

    WAITING = 1
    RECEIVING = 2
    RUNNING = 3
    OVER = 4


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence. The engine alone changes it; the scheduler reads it."""

    spec: SequenceSpec
    order: tuple[int, int]
    """(-priority, arrival): the lower, the sooner."""
    root: bytes
    """Parent of the first block's key."""
    stop_ids: frozenset[int]
    """Ids that end the sequence once `min_tokens` are there."""
    added_ns: int
    token_ids: array[int] = field(default_factory=partial(array, "I"))
    """Known tokens: the spec's, then drawn ones; uint32, no object for each. Those that are still
    to be read from the device stand here as 0."""
    num_computed: int = 0
    """Tokens whose keys and values lie in the blocks, or will before the next step's are written:
    those of a step that was launched count."""
    num_unread: int = 0
    """Last known tokens that were drawn on the device and have not been read."""
    table: array[int] = field(default_factory=partial(array, "i"))
    """The blocks that it holds, in order; int32, as batches copy them."""
    keys: list[BlockKey] = field(default_factory=list)
    """Keys of full known blocks, as far as they were needed."""
    num_stored: int = 0
    """Leading blocks that are in the prefix cache."""
    state: SequenceState = SequenceState.WAITING
    must_receive: bool = False
    """Whether admission leads to RECEIVING."""
    has_shared: bool = False
    """Whether the tokens known at `add` were computed once, so that children need not wait."""
    has_drawn: bool = False
    """Whether it got a token in this engine, drawn or received."""
    last_step: int = 0
    """The last step that scheduled it."""
    draw_state: DrawState | None = None
    admitted_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int = 0
    has_drawn_first: bool = False
    """Whether this engine drew its first token itself."""
    num_cached_tokens: int = 0
    num_preemptions: int = 0

    @property
    def sequence_id(self) -> str:
        return self.spec.sequence_id

    @property
    def num_known(self) -> int:
        return len(self.token_ids)

    @property
    def num_uncomputed(self) -> int:
        return len(self.token_ids) - self.num_computed

    @property
    def num_output(self) -> int:
        """Tokens behind the prompt."""
        return len(self.token_ids) - self.spec.prompt_len

    @property
    def is_preemptible(self) -> bool:
        """Not if `prefill_only`: its blocks may be on their way elsewhere and must not change."""
        return not self.spec.prefill_only

    def note_admission(self, now_ns: int) -> None:
        """Records the first admission; later ones change nothing."""
        if self.admitted_ns is None:
            self.admitted_ns = now_ns
            self.num_cached_tokens = self.num_computed

    @property
    def num_read(self) -> int:
        """Known tokens whose ids are on the host."""
        return len(self.token_ids) - self.num_unread

    def will_end(self, context_len: int) -> bool:
        """Whether an unread token ends it, whatever it is."""
        return self.num_unread > 0 and (self.spec.prefill_only or self.is_full(context_len))

    @property
    def draws_on_tokens(self) -> bool:
        """Whether its draws depend on the ids of the tokens before them: by guide or penalties."""
        sampling = self.spec.sampling
        penalties = (
            sampling.repetition_penalty - 1.0,
            sampling.presence_penalty,
            sampling.frequency_penalty,
        )
        return self.spec.matcher is not None or any(penalties)

    def expect(self) -> None:
        """Makes room for a token that was drawn and is still to be read."""
        self.token_ids.append(0)
        self.num_unread += 1
        self.has_drawn = True

    def forget_unread(self) -> None:
        """Drops what nobody will read."""
        if self.num_unread:
            del self.token_ids[-self.num_unread :]
            self.num_unread = 0

    def learn(self, token_id: int, now_ns: int, is_received: bool) -> None:
        """Adds a new token to the known ones, in the place of the first that was expected."""
        if self.num_unread:
            self.token_ids[-self.num_unread] = token_id
            self.num_unread -= 1
        else:
            self.token_ids.append(token_id)
        if self.spec.matcher is not None:
            self.spec.matcher.advance(token_id)
        if self.first_token_ns is None:
            self.first_token_ns = now_ns
            self.has_drawn_first = not is_received
        self.last_token_ns = now_ns
        self.has_drawn = True

    def end_reason(self, context_len: int) -> FinishReason | None:
        """Whether the newest token ends the sequence, and why."""
        if self.spec.prefill_only:
            return FinishReason.LENGTH
        if self.is_matched:
            return FinishReason.STOP
        # The newest token is number `num_output`; it may stop if `min_tokens` came before it.
        if self.token_ids[-1] in self.stop_ids and self.num_output > self.spec.sampling.min_tokens:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.is_full(context_len) else None

    @property
    def is_matched(self) -> bool:
        """Whether its guide allows no further token."""
        return self.spec.matcher is not None and self.spec.matcher.is_complete

    @property
    def guide_fault(self) -> str:
        """Why its guide cannot go on; empty: it can, or there is none."""
        return self.spec.matcher.fault if self.spec.matcher is not None else ""

    def is_full(self, context_len: int) -> bool:
        """Whether no further token is allowed."""
        num_known, spec = len(self.token_ids), self.spec
        num_output = num_known - spec.prompt_len
        return num_output >= spec.sampling.max_tokens or num_known >= context_len

    def stats(self, now_ns: int) -> SequenceStats:
        """Where the time went."""
        admitted = now_ns if self.admitted_ns is None else self.admitted_ns
        first = admitted if self.first_token_ns is None else self.first_token_ns
        last = first if self.first_token_ns is None else self.last_token_ns
        return SequenceStats(
            queue_us=(admitted - self.added_ns) // 1000,
            prefill_us=(first - admitted) // 1000 if self.has_drawn_first else 0,
            decode_us=(last - first) // 1000,
            num_cached_tokens=self.num_cached_tokens,
            num_output_tokens=self.num_output,
            num_preemptions=self.num_preemptions,
        )
