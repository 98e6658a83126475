"""Drives a transformer without an engine: sequences in scattered blocks, in chunks of any size."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from baton.engine.model.batch import Batch
from baton.engine.model.weights import LoadedModel

BLOCK_SIZE = 16
NUM_BLOCKS = 64


class PagedModel:
    """Sequences of one model over an arena whose unused slots hold NaN."""

    def __init__(self, model: LoadedModel, num_sequences: int, device: str = "cpu") -> None:
        config = model.config
        shape = (config.num_layers, 2, config.num_kv_heads, BLOCK_SIZE, config.head_dim)
        self._model = model
        self._device = device
        self._kv = torch.full(
            (NUM_BLOCKS, *shape), torch.nan, dtype=model.transformer.dtype, device=device
        )
        blocks = list(range(NUM_BLOCKS))
        random.Random(1).shuffle(blocks)
        share = NUM_BLOCKS // num_sequences
        self._tables = torch.tensor(blocks[: share * num_sequences]).view(num_sequences, share)
        self._num_computed = [0] * num_sequences

    def compute(
        self, chunks: dict[int, Sequence[int]], sample_rows: Sequence[int] | None = None
    ) -> Tensor:
        """Computes the next tokens of some sequences in one batch.

        Returns the logits behind every token, or behind those in `sample_rows`.
        """
        sequences = list(chunks)
        query_lens = tuple(len(chunks[index]) for index in sequences)
        starts = [self._num_computed[index] for index in sequences]
        positions = torch.cat(
            [torch.arange(at, at + n) for at, n in zip(starts, query_lens, strict=True)]
        )
        rows = torch.tensor(sequences).repeat_interleave(torch.tensor(query_lens))
        context_lens = tuple(at + n for at, n in zip(starts, query_lens, strict=True))
        batch = Batch(
            token_ids=self._ids([token for index in sequences for token in chunks[index]]),
            positions=positions.to(self._device),
            slot_blocks=self._tables[rows, positions // BLOCK_SIZE].to(self._device),
            slot_offsets=(positions % BLOCK_SIZE).to(self._device),
            block_tables=self._tables[sequences].int().to(self._device),
            query_start=self._ids((0, *query_lens)).cumsum(0).int(),
            context_lens=self._ids(context_lens).int(),
            sample_rows=self._ids(range(len(positions)) if sample_rows is None else sample_rows),
            query_lens=query_lens,
            host_context_lens=context_lens,
        )
        for index, query_len in zip(sequences, query_lens, strict=True):
            self._num_computed[index] += query_len
        return self._model.transformer.forward(batch, self._kv)

    def greedy(self, prompts: list[list[int]], max_new: int, chunk_len: int) -> list[list[int]]:
        """The likeliest tokens behind each prompt; prompts go in chunks, decoding in one batch."""
        last = {}
        for index, prompt in enumerate(prompts):
            for start in range(0, len(prompt), chunk_len):
                last[index] = self.compute({index: prompt[start : start + chunk_len]})[-1]
        drawn = [[int(last[index].argmax())] for index in range(len(prompts))]
        for _ in range(max_new - 1):
            logits = self.compute({index: tokens[-1:] for index, tokens in enumerate(drawn)})
            for tokens, token in zip(drawn, logits.argmax(-1).tolist(), strict=True):
                tokens.append(token)
        return drawn

    def _ids(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)
