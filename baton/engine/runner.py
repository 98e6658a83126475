"""The runner that computes: a model's forward pass with torch, and the draw of tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from baton.engine.batch_builder import BatchBuilder
from baton.engine.decode_graphs import DecodeGraphs
from baton.engine.drawn import Drawn
from baton.engine.exchange import Exchange
from baton.engine.model.batch import Batch
from baton.engine.sampling import Sampler
from baton.engine.sequence import Sequence
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import NewToken
from kernels.sample import DeviceSample, Sample


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
    @property
    def device_sample(self) -> DeviceSample | None: ...


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
    """A step whose forward pass was launched: a `Launched`, and a `LastDraw` for the next."""

    def __init__(
        self, drawing: list[Sequence], draw: Callable[[list[Sequence]], Drawn], is_late: bool
    ) -> None:
        self.drawing = drawing
        self.is_late = is_late
        self._draw = draw
        self._drawn: Drawn | None = None

    def draw(self) -> None:
        """See `Launched`."""
        if self._drawn is None and self.drawing:
            with torch.inference_mode():
                self._drawn = self._draw(self.drawing)

    def read(self) -> dict[Sequence, NewToken]:
        """See `Launched`."""
        if self._drawn is None:
            assert not self.drawing, "a step is drawn before it is read"
            return {}
        return dict(zip(self.drawing, self._drawn.read(), strict=True))

    @property
    def rows(self) -> dict[Sequence, int]:
        """See `LastDraw`."""
        return {sequence: row for row, sequence in enumerate(self.drawing)}

    @property
    def token_ids(self) -> Tensor:
        """See `LastDraw`."""
        assert self._drawn is not None, "a step is drawn before the next is launched"
        return self._drawn.token_ids


class ModelRunner:
    """A `Runner` on the arena's device."""

    def __init__(
        self,
        model: ModelLike,
        arena: TensorArena,
        graphs: DecodeGraphs | None = None,
        exchange: Exchange | None = None,
        *,
        draws_on_device: bool = True,
    ) -> None:
        """With `graphs` decode steps run in buffers that stay, on a GPU as CUDA graphs.

        `exchange` and `draws_on_device` are there to measure what they are worth.
        """
        self._graphs = graphs
        self.vocab_size = model.config.vocab_size
        self.eos_token_ids = frozenset(model.eos_token_ids)
        self._transformer = model.transformer
        self._kv = arena.tensor
        exchange = exchange or Exchange(arena.device)
        self._builder = BatchBuilder(arena.layout.block_size, exchange)
        self._last: ModelStep | None = None
        device_sample = model.ops.device_sample if draws_on_device else None
        self._sampler = Sampler(
            model.ops.sample, self.vocab_size, self.eos_token_ids, exchange, device_sample
        )

    def launch(self, chunks: Mapping[Sequence, int]) -> ModelStep:
        """See `Runner`. On a GPU nothing here waits for it."""
        drawing = [sequence for sequence, n in chunks.items() if n == sequence.num_uncomputed]
        with torch.inference_mode():
            draw = self._forward(self._builder.build(chunks, self._last))
        # What draws on tokens that are unread waits for them, and all of its step with it.
        is_late = any(s.num_unread and s.draws_on_tokens for s in drawing)
        self._last = ModelStep(drawing, draw, is_late)
        if not is_late:
            self._last.draw()
        return self._last

    def _forward(self, batch: Batch) -> Callable[[list[Sequence]], Drawn]:
        static = None if self._graphs is None else self._graphs.forward(batch)
        if static is not None:
            return partial(self._sampler.draw, static.logits, static=static)
        return partial(self._sampler.draw, self._transformer.forward(batch, self._kv))
