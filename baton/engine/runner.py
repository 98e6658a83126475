"""The runner that computes: a model's forward pass with torch, and the draw of tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor

from baton.engine.batch_builder import BatchBuilder
from baton.engine.decode_graphs import DecodeGraphs
from baton.engine.model.batch import Batch
from baton.engine.sampling import Sampler
from baton.engine.sequence import Sequence
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import NewToken
from kernels.sample import Sample


class ModelConfigLike(Protocol):
    """What the engine reads of a model's config."""

    @property
    def vocab_size(self) -> int: ...


class TransformerLike(Protocol):
    """A forward pass over paged keys and values."""

    def forward(self, batch: Batch, kv: Tensor) -> Tensor:
        """Writes the batch's keys and values into `kv`; logits [S, vocab] of its sample rows."""


class OpsLike(Protocol):
    """What the engine itself uses of `kernels.Ops`."""

    @property
    def sample(self) -> Sample: ...


class ModelLike(Protocol):
    """What the engine uses of a `LoadedModel`."""

    @property
    def config(self) -> ModelConfigLike: ...
    @property
    def transformer(self) -> TransformerLike: ...
    @property
    def ops(self) -> OpsLike: ...
    @property
    def eos_token_ids(self) -> Collection[int]: ...


class ModelStep:
    """A step whose forward pass was launched: a `Launched`."""

    def __init__(
        self, sampler: Sampler, logits: Tensor, drawing: list[Sequence], is_late: bool
    ) -> None:
        self.drawing = drawing
        self.is_late = is_late
        self._sampler = sampler
        self._logits = logits
        self._drawn: list[NewToken] | None = None

    def draw(self) -> None:
        """See `Launched`."""
        if self._drawn is None:
            with torch.inference_mode():
                drawing = self.drawing
                self._drawn = self._sampler.draw(self._logits, drawing) if drawing else []

    def read(self) -> dict[Sequence, NewToken]:
        """See `Launched`."""
        assert self._drawn is not None, "a step is drawn before it is read"
        return dict(zip(self.drawing, self._drawn, strict=True))

    @property
    def rows(self) -> dict[Sequence, int]:
        """See `LastDraw`."""
        return {sequence: row for row, sequence in enumerate(self.drawing)}

    @property
    def token_ids(self) -> Tensor:
        """See `LastDraw`."""
        assert self._drawn is not None, "a step is drawn before the next is launched"
        return torch.tensor([token.token_id for token in self._drawn])


class ModelRunner:
    """A `Runner` on the arena's device."""

    def __init__(
        self, model: ModelLike, arena: TensorArena, graphs: DecodeGraphs | None = None
    ) -> None:
        """With `graphs` decode steps run in buffers that stay, on a GPU as CUDA graphs."""
        self._graphs = graphs
        self.vocab_size = model.config.vocab_size
        self.eos_token_ids = frozenset(model.eos_token_ids)
        self._transformer = model.transformer
        self._kv = arena.tensor
        self._builder = BatchBuilder(arena.layout.block_size, arena.device)
        self._last: ModelStep | None = None
        self._sampler = Sampler(model.ops.sample, self.vocab_size, self.eos_token_ids, arena.device)

    def launch(self, chunks: Mapping[Sequence, int]) -> ModelStep:
        """See `Runner`. On a GPU nothing here waits for it."""
        drawing = [sequence for sequence, n in chunks.items() if n == sequence.num_uncomputed]
        with torch.inference_mode():
            logits = self._forward(self._builder.build(chunks, self._last))
        # What draws on tokens that are unread waits for them, and all of its step with it.
        is_late = any(s.num_unread and s.draws_on_tokens for s in drawing)
        self._last = ModelStep(self._sampler, logits, drawing, is_late)
        if not is_late:
            self._last.draw()
        return self._last

    def _forward(self, batch: Batch) -> Tensor:
        logits = None if self._graphs is None else self._graphs.forward(batch)
        return self._transformer.forward(batch, self._kv) if logits is None else logits
