"""A decoder's whole step in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.native import library
from kernels.native.library import Batch, Chunks, Heads, Layer, Model, arena_of, find, num_threads
from kernels.native.packed import PackedMatrix
from kernels.paged_attention import AttentionBatch
from kernels.qk_norm_rope_write import QkNorm, Rotary, Slots


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """The weights of one layer; norms are [hidden] float32."""

    attention_norm: Tensor
    qkv: PackedMatrix
    qk_norm: QkNorm | None
    output: PackedMatrix
    mlp_norm: Tensor
    gate_up: PackedMatrix
    down: PackedMatrix


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """All weights of a decoder."""

    layers: Sequence[LayerWeights]
    norm: Tensor
    head: PackedMatrix
    embedding: Tensor | None
    """[vocab, hidden] float32; None: the head's rows."""


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What the weights' shapes don't say."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    eps: float


class DecoderStep:
    """Computes what `kernels` ops compute one by one: embedding, layers, norm, head.

    Results depend on each sequence alone, bit for bit: not on the batch, the chunks, the blocks or
    the number of threads.
    """

    def __init__(self, weights: DecoderWeights, shape: DecoderShape) -> None:
        self._weights = weights  # keeps alive what the structures point to
        self._qk_norms = [
            None if layer.qk_norm is None else layer.qk_norm.weight.float().contiguous()
            for layer in weights.layers
        ]
        self._layers = (Layer * len(weights.layers))(
            *(_layer(layer, qk) for layer, qk in zip(weights.layers, self._qk_norms, strict=True))
        )
        first = weights.layers[0]
        self._model = Model(
            layers=self._layers,
            norm=weights.norm.data_ptr(),
            embedding=None if weights.embedding is None else weights.embedding.data_ptr(),
            head=weights.head.matrix,
            heads=Heads(shape.num_heads, shape.num_kv_heads, shape.head_dim),
            num_layers=len(weights.layers),
            hidden=first.output.n,
            inner=first.down.k,
            eps=shape.eps,
            qk_eps=shape.eps if first.qk_norm is None else first.qk_norm.eps,
            scale=shape.head_dim**-0.5,
        )

    def __call__(
        self,
        token_ids: Tensor,
        rotary: Rotary,
        slots: Slots,
        attention: AttentionBatch,
        sample_rows: Tensor,
        kv: Tensor,
    ) -> Tensor:
        """Logits [S, vocab] of `sample_rows`; keys and values go into `kv`.

        `token_ids` [T] int64, `kv` [num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]
        float32.
        """
        logits = torch.empty(len(sample_rows), self._weights.head.n)
        batch = Batch(
            token_ids=token_ids.data_ptr(),
            slot_blocks=slots.blocks.data_ptr(),
            slot_offsets=slots.offsets.data_ptr(),
            rotary=rotary_of(rotary),
            sample_rows=sample_rows.data_ptr(),
            chunks=chunks_of(attention),
            num_tokens=len(token_ids),
            num_samples=len(sample_rows),
            kv=arena_of(kv[:, 0]),
            layer_stride=kv.stride(1),
            logits=logits.data_ptr(),
        )
        find().baton_step(self._model, batch, num_threads())
        return logits


def chunks_of(batch: AttentionBatch) -> Chunks:
    """The batch's tables and lengths, which must outlive what is returned."""
    return Chunks(
        batch.block_tables.data_ptr(),
        batch.block_tables.stride(0),
        batch.query_start.data_ptr(),
        batch.context_lens.data_ptr(),
        len(batch.query_lens),
    )


def rotary_of(rotary: Rotary) -> library.Rotary:
    """The rotations, which must be dense and outlive what is returned."""
    return library.Rotary(rotary.cos.data_ptr(), rotary.sin.data_ptr(), rotary.cos.shape[1])


def _layer(layer: LayerWeights, qk_norm: Tensor | None) -> Layer:
    return Layer(
        attention_norm=layer.attention_norm.data_ptr(),
        qk_norm=None if qk_norm is None else qk_norm.data_ptr(),
        mlp_norm=layer.mlp_norm.data_ptr(),
        qkv=layer.qkv.matrix,
        output=layer.output.matrix,
        gate_up=layer.gate_up.matrix,
        down=layer.down.matrix,
    )
