"""The forward pass of decoder-only transformers: Llama, Mistral, Qwen2 and Qwen3 alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from baton.engine.model.batch import Batch
from baton.engine.model.config import ModelConfig
from baton.engine.model.invariant import PIECE_LEN, TiledLinear, in_tiles
from baton.engine.model.rope import Rope
from kernels import Ops
from kernels.native.decoder import DecoderShape, DecoderStep, DecoderWeights, LayerWeights
from kernels.native.packed import PackedMatrix
from kernels.paged_attention import AttentionBatch
from kernels.qk_norm_rope_write import QkNorm, Slots


@dataclass(frozen=True, slots=True)
class Linear:
    """A projection."""

    weight: Tensor
    """[num_outputs, num_inputs]."""
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


Projection: TypeAlias = Linear | PackedMatrix | TiledLinear
"""Packed where native kernels run, tiled where no bit may depend on the batch."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer."""

    attention_norm: Tensor
    qkv: Projection
    """Query heads, key heads, value heads."""
    qk_norm: QkNorm | None
    output: Projection
    mlp_norm: Tensor
    gate_up: Projection
    down: Projection


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of a model."""

    embedding: Tensor | None
    """[vocab_size, hidden_size]; None: the rows of a packed head, which is tied to it."""
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Projection


class Transformer:
    """Computes logits and fills the arena. Holds no state between steps."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        ops: Ops,
        *,
        fuses: bool = True,
        is_invariant: bool = False,
    ) -> None:
        """Packed weights and native ops make a step one call; not without `fuses`.

        With `is_invariant` the logits of a token are the same bits whatever else is in the batch
        and however its prompt is cut into chunks. Native float32 steps are so in any case.
        """
        self._config = config
        self._weights = in_tiles(weights) if is_invariant else weights
        self._piece_len = PIECE_LEN if is_invariant else None
        self._ops = ops
        self._rope = Rope(config.rope, config.head_dim, str(weights.norm.device))
        self._scale = config.head_dim**-0.5
        self._step = _fused(config, weights) if fuses and ops.is_native else None

    @property
    def weights(self) -> Weights:
        """What it computes with."""
        return self._weights

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations, and so of keys and values."""
        return self._weights.norm.dtype

    @property
    def device(self) -> torch.device:
        """Where weights lie, and so batch and arena."""
        return self._weights.norm.device

    @torch.inference_mode()
    def forward(self, batch: Batch, kv: Tensor) -> Tensor:
        """Logits [S, vocab_size] in float32 of the batch's sample rows.

        Keys and values of all its tokens are written into the arena `kv`
        [num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim].
        """
        ops, eps = self._ops, self._config.norm_eps
        rotary = self._rope.at(batch.positions)
        slots = Slots(batch.slot_blocks, batch.slot_offsets)
        attention = _attention_batch(batch, self._piece_len)
        if self._step is not None:
            return self._step(batch.token_ids, rotary, slots, attention, batch.sample_rows, kv)
        residual = self._embed(batch.token_ids)
        x = ops.rms_norm(residual, self._weights.layers[0].attention_norm, eps)
        for index, layer in enumerate(self._weights.layers):
            layer_kv = kv[:, index]
            q = ops.qk_norm_rope_write(layer.qkv(x), layer.qk_norm, rotary, layer_kv, slots)
            x = layer.output(ops.paged_attention(q, layer_kv, attention, self._scale).flatten(1))
            x, residual = ops.add_rms_norm(x, residual, layer.mlp_norm, eps)
            x = layer.down(ops.silu_mul(layer.gate_up(x)))
            x, residual = ops.add_rms_norm(x, residual, self._next_norm(index), eps)
        return self._weights.head(x[batch.sample_rows]).float()

    def _embed(self, token_ids: Tensor) -> Tensor:
        weights = self._weights
        if weights.embedding is None:
            assert isinstance(weights.head, PackedMatrix)
            return weights.head.rows(token_ids)
        return F.embedding(token_ids, weights.embedding)

    def _next_norm(self, index: int) -> Tensor:
        """The norm behind a layer: the next layer's first, or the model's last."""
        layers = self._weights.layers
        return layers[index + 1].attention_norm if index + 1 < len(layers) else self._weights.norm


def _fused(config: ModelConfig, weights: Weights) -> DecoderStep | None:
    """A step as one native call; None unless all projections are packed."""
    layers = []
    for layer in weights.layers:
        match layer.qkv, layer.output, layer.gate_up, layer.down:
            case (
                PackedMatrix() as qkv,
                PackedMatrix() as output,
                PackedMatrix() as gate_up,
                PackedMatrix() as down,
            ):
                norms = (layer.attention_norm, layer.qk_norm, layer.mlp_norm)
                layers.append(
                    LayerWeights(norms[0], qkv, norms[1], output, norms[2], gate_up, down)
                )
            case _:
                return None
    if not isinstance(weights.head, PackedMatrix):
        return None
    shape = DecoderShape(config.num_heads, config.num_kv_heads, config.head_dim, config.norm_eps)
    packed = DecoderWeights(tuple(layers), weights.norm, weights.head, weights.embedding)
    return DecoderStep(packed, shape)


def _attention_batch(batch: Batch, piece_len: int | None) -> AttentionBatch:
    return AttentionBatch(
        block_tables=batch.block_tables,
        query_start=batch.query_start,
        context_lens=batch.context_lens,
        query_lens=batch.query_lens,
        host_context_lens=batch.host_context_lens,
        piece_len=piece_len,
        plans=batch.plans,
    )
