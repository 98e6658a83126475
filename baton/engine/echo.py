"""An engine without arithmetic: KV that can be checked, and answers read back from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baton.blocks import KvLayout
from baton.engine.arena import HostArena
from baton.engine.masks import GuideMasks, Mask, allowed_one
from baton.engine.sequence import Sequence
from baton.engine.types import NewToken
from baton.request import TokenLogprobs

_WORD_BYTES = 4


@dataclass(frozen=True, slots=True)
class Landed:
    """A `Launched` that was over at its launch. For engines that don't look ahead."""

    drawn: dict[Sequence, NewToken]
    is_late: ClassVar[bool] = False

    @property
    def drawing(self) -> Collection[Sequence]:
        """See `Launched`."""
        return self.drawn

    def draw(self) -> None:
        """See `Launched`."""

    def read(self) -> dict[Sequence, NewToken]:
        """See `Launched`."""
        return self.drawn


class EchoRunner:
    """Echoes the prompt, over and over, by way of the arena. A `Runner` that takes no model time.

    A token's KV is its id and its position: ids fill the first words of a block, positions the
    last. Output token i is the id that lies at prompt position `i % prompt_len`, or at the first
    one behind it, cyclically, that holds no end-of-sequence id. A lost, stale or misplaced block
    therefore shows as a wrong answer. Where a guide does not allow that token, it is the lowest one
    that the guide allows.
    """

    def __init__(self, arena: HostArena, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self.vocab_size = vocab_size
        self.eos_token_ids = eos_token_ids
        self._block_size = arena.layout.block_size
        self._block_words = _block_words(arena.layout)
        self._masks = GuideMasks(vocab_size, eos_token_ids)
        self._words = arena.memory.cast("I")
        blocks = np.frombuffer(arena.memory, dtype=np.uint32).reshape(arena.num_blocks, -1)
        self._ids = blocks[:, : self._block_size]
        self._positions = blocks[:, -self._block_size :]
        self._positions_at = self._block_words - self._block_size
        # What a prompt of nothing but end-of-sequence ids is answered with.
        self._other = next((i for i in range(vocab_size) if i not in eos_token_ids), 0)

    def launch(self, chunks: Mapping[Sequence, int]) -> Landed:
        """See `Runner`. Returns when all is done."""
        return Landed(self.run(chunks))

    def run(self, chunks: Mapping[Sequence, int]) -> dict[Sequence, NewToken]:
        """The step's tokens."""
        for sequence, num_tokens in chunks.items():
            self._write(sequence, num_tokens)
        drawing = [sequence for sequence, n in chunks.items() if n == sequence.num_uncomputed]
        masks = self._masks.fill(drawing)
        return {
            sequence: self._draw(sequence, mask)
            for sequence, mask in zip(drawing, masks, strict=True)
        }

    def _write(self, sequence: Sequence, num_tokens: int) -> None:
        start = sequence.num_computed
        if num_tokens == 1:
            slot = self._slot(sequence, start)
            self._words[slot] = sequence.token_ids[start]
            self._words[slot + self._positions_at] = start
            return
        stop = start + num_tokens
        positions = np.arange(start, stop, dtype=np.uint32)
        table = sequence.table.array(-(-stop // self._block_size))
        blocks, offsets = table[positions // self._block_size], positions % self._block_size
        self._ids[blocks, offsets] = sequence.token_ids[start:stop]
        self._positions[blocks, offsets] = positions

    def _draw(self, sequence: Sequence, mask: Mask | None) -> NewToken:
        token_id = self._echo(sequence)
        if mask is not None:
            token_id = allowed_one(mask, token_id)
        if sequence.spec.sampling.logprobs_count is None:
            return NewToken(sequence.sequence_id, token_id)
        top = ((token_id, 0.0),) if sequence.spec.sampling.logprobs_count else ()
        return NewToken(sequence.sequence_id, token_id, TokenLogprobs(token_id, 0.0, top))

    def _echo(self, sequence: Sequence) -> int:
        prompt_len = sequence.spec.prompt_len
        first = sequence.num_output % prompt_len
        for step in range(prompt_len):
            token_id = self._read(sequence, (first + step) % prompt_len)
            if token_id not in self.eos_token_ids:
                return token_id
        return self._other

    def _read(self, sequence: Sequence, position: int) -> int:
        """The id that lies at a position; another one if it was written for another position."""
        slot = self._slot(sequence, position)
        astray = self._words[slot + self._positions_at] - position
        return (self._words[slot] + astray) % self.vocab_size

    def _slot(self, sequence: Sequence, position: int) -> int:
        """Index of the word that holds a token's id."""
        index, offset = divmod(position, self._block_size)
        return sequence.table[index] * self._block_words + offset


def _block_words(layout: KvLayout) -> int:
    words, rest = divmod(layout.block_bytes, _WORD_BYTES)
    if rest or words < 2 * layout.block_size:
        raise ValueError(
            f"a block of {layout.block_bytes} bytes has no room for the ids and positions of"
            f" {layout.block_size} tokens"
        )
    return words
