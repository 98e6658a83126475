"""What a step drew: on the device at once, on the host when somebody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from baton.engine.exchange import Arrival
from baton.engine.sequence import Sequence
from baton.engine.types import NewToken
from baton.request import TokenLogprobs
from kernels.sample import Sampled

Likeliest: TypeAlias = tuple[float, tuple[tuple[int, float], ...]]
"""The drawn token's log-probability, then ids and log-probabilities of the likeliest."""


class Drawn(Protocol):
    """The tokens of a step, a row each."""

    @property
    def token_ids(self) -> Tensor:
        """[S] int64 on the device; valid until the next draw."""

    def read(self) -> list[NewToken]:
        """The tokens on the host. Waits for them."""


class HostDraw:
    """A draw that was on the host at once."""

    def __init__(self, sequences: Rows[Sequence], sampled: Sampled, device: torch.device) -> None:
        self._sequences = sequences
        self._sampled = sampled
        self._device = device

    @property
    def token_ids(self) -> Tensor:
        """See `Drawn`."""
        return torch.tensor(self._sampled.token_ids, dtype=torch.int64, device=self._device)

    def read(self) -> list[NewToken]:
        """See `Drawn`."""
        sampled = self._sampled
        drawn = zip(self._sequences, sampled.token_ids, sampled.logprobs, strict=True)
        return [_new_token(sequence, token_id, found) for sequence, token_id, found in drawn]


class DeviceDraw:
    """A draw whose tokens are on their way to the host."""

    def __init__(
        self,
        sequences: Rows[Sequence],
        token_ids: Tensor,
        down: Callable[..., Arrival],
        logprobs: tuple[Mapping[int, int], tuple[Tensor, Tensor, Tensor]] | None,
    ) -> None:
        """`logprobs`: which rows want how many, and what `DeviceSample.likeliest` says of them."""
        self.token_ids = token_ids
        self._sequences = sequences
        self._counts = {} if logprobs is None else logprobs[0]
        self._arrival = down(token_ids, *(() if logprobs is None else logprobs[1]))

    def read(self) -> list[NewToken]:
        """See `Drawn`."""
        token_ids, *found = self._arrival.wait()
        logprobs: list[Likeliest | None] = [None] * len(token_ids)
        for place, (row, count) in enumerate(self._counts.items()):
            drawn, top, ids = (part[place] for part in found)
            logprobs[row] = (drawn, tuple(zip(ids[:count], top[:count], strict=True)))
        rows = zip(self._sequences, token_ids, logprobs, strict=True)
        return [_new_token(*row) for row in rows]


def _new_token(sequence: Sequence, token_id: int, found: Likeliest | None) -> NewToken:
    if found is None:
        return NewToken(sequence.sequence_id, token_id)
    return NewToken(sequence.sequence_id, token_id, TokenLogprobs(token_id, *found))
