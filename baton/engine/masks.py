"""Masks of guided sequences: which tokens a step may draw, one bit each."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from baton.engine.sequence import Sequence, SequenceState

WORD_BITS = 32

Mask = NDArray[np.int32]
"""Token v is allowed if bit v % 32 of word v // 32 is set."""


class GuideMasks:
    """Fills the masks of a step into one piece of memory."""

    def __init__(self, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._num_words = -(-vocab_size // WORD_BITS)
        self._eos_token_ids = eos_token_ids
        self._without = lru_cache(maxsize=256)(self._make_without)

    def fill(self, sequences: Rows[Sequence]) -> tuple[Mask | None, ...]:
        """A mask for each living guided sequence. One whose guide fails here has none; its token is
        void.

        `min_tokens` and `ignore_eos` hold as far as the guide leaves something else to draw.
        """
        masks: list[Mask | None] = [None] * len(sequences)
        # After its end a guide may allow nothing at all, and what is drawn ahead is void.
        guided = [
            (place, sequence)
            for place, sequence in enumerate(sequences)
            if sequence.spec.matcher is not None and sequence.state is not SequenceState.OVER
        ]
        if guided:
            rows = np.zeros((len(guided), self._num_words), dtype=np.int32)
            for row, (place, sequence) in zip(rows, guided, strict=True):
                masks[place] = self._fill(sequence, row)
        return tuple(masks)

    def _fill(self, sequence: Sequence, row: Mask) -> Mask | None:
        matcher = sequence.spec.matcher
        assert matcher is not None
        matcher.fill(row)
        if matcher.fault:
            return None
        unwanted = self._unwanted(sequence)
        if unwanted:
            rest = row & self._without(unwanted)
            if rest.any():
                return rest
        return row

    def _unwanted(self, sequence: Sequence) -> frozenset[int]:
        sampling = sequence.spec.sampling
        unwanted = self._eos_token_ids if sampling.ignore_eos else frozenset[int]()
        if sequence.num_output < sampling.min_tokens:
            unwanted |= sequence.stop_ids
        return unwanted

    def _make_without(self, token_ids: frozenset[int]) -> Mask:
        words = np.full(self._num_words, 0xFFFFFFFF, dtype=np.uint32)
        for token_id in token_ids:
            words[token_id // WORD_BITS] &= np.uint32(~(1 << token_id % WORD_BITS) & 0xFFFFFFFF)
        return words.view(np.int32)


def allowed_one(mask: Mask, token_id: int) -> int:
    """The token itself if it is allowed, else the lowest one that is."""
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return token_id if bits[token_id] else int(bits.argmax())
