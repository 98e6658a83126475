"""An engine without arithmetic: KV that can be checked, and answers read back from it."""

from __future__ import annotations

from array import array
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
_FEW_BLOCKS = 32
"""So many blocks are written one by one sooner than numpy is asked to."""


# Not frozen: one for each step.
@dataclass(slots=True)
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
        self._numbers = array("I")  # 0, 1, 2 and so on, as far as they were needed
        # What a prompt of nothing but end-of-sequence ids is answered with.
        self._other = next((i for i in range(vocab_size) if i not in eos_token_ids), 0)

    def launch(self, chunks: Mapping[Sequence, int]) -> Landed:
        """See `Runner`. Returns when all is done."""
        for sequence, num_tokens in chunks.items():
            self._write(sequence, num_tokens)
        drawing = [sequence for sequence, n in chunks.items() if n == sequence.num_uncomputed]
        masks = self._masks.fill(drawing)
        rows = zip(drawing, masks, strict=True)
        return Landed({sequence: self._draw(sequence, mask) for sequence, mask in rows})

    def _write(self, sequence: Sequence, num_tokens: int) -> None:
        start = sequence.num_computed
        if num_tokens == 1:
            slot = self._slot(sequence, start)
            self._words[slot] = sequence.token_ids[start]
            self._words[slot + self._positions_at] = start
            return
        stop, size = start + num_tokens, self._block_size
        if stop > len(self._numbers):
            self._numbers.extend(range(len(self._numbers), 2 * stop))
        first, last = -(-start // size), stop // size
        if last - first <= _FEW_BLOCKS:
            self._write_by_block(sequence, start, stop)
            return
        self._write_by_block(sequence, start, first * size)
        blocks, inside = sequence.table[first:last], slice(first * size, last * size)
        self._ids[blocks] = np.frombuffer(sequence.token_ids[inside], np.uint32).reshape(-1, size)
        positions = np.frombuffer(self._numbers[inside], np.uint32)
        self._positions[blocks] = positions.reshape(-1, size)
        self._write_by_block(sequence, last * size, stop)

    def _write_by_block(self, sequence: Sequence, start: int, stop: int) -> None:
        words, size, positions_at = self._words, self._block_size, self._positions_at
        while start < stop:
            index, offset = divmod(start, size)
            end = min(stop, start - offset + size)
            slot = sequence.table[index] * self._block_words + offset
            words[slot : slot + end - start] = sequence.token_ids[start:end]
            slot += positions_at
            words[slot : slot + end - start] = self._numbers[start:end]
            start = end

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
