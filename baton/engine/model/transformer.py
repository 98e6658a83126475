"""The forward pass of decoder-only transformers: Llama, Mistral, Qwen2 and Qwen3 alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from baton.engine.model.batch import Batch
from baton.engine.model.config import ModelConfig
from baton.engine.model.rope import Rope
from kernels import Ops
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


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer."""

    attention_norm: Tensor
    qkv: Linear
    """Query heads, key heads, value heads."""
    qk_norm: QkNorm | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of a model."""

    embedding: Tensor
    """[vocab_size, hidden_size]."""
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Linear


class Transformer:
    """Computes logits and fills the arena. Holds no state between steps."""

    def __init__(self, config: ModelConfig, weights: Weights, ops: Ops) -> None:
        self._config = config
        self._weights = weights
        self._ops = ops
        self._rope = Rope(config.rope, config.head_dim, str(weights.embedding.device))
        self._scale = config.head_dim**-0.5

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations, and so of keys and values."""
        return self._weights.embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where weights lie, and so batch and arena."""
        return self._weights.embedding.device

    @torch.inference_mode()
    def forward(self, batch: Batch, kv: Tensor) -> Tensor:
        """Logits [S, vocab_size] in float32 of the batch's sample rows.

        Keys and values of all its tokens are written into the arena `kv`
        [num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim].
        """
        ops, eps = self._ops, self._config.norm_eps
        rotary = self._rope.at(batch.positions)
        slots = Slots(batch.slot_blocks, batch.slot_offsets)
        attention = _attention_batch(batch)
        residual = F.embedding(batch.token_ids, self._weights.embedding)
        x = ops.rms_norm(residual, self._weights.layers[0].attention_norm, eps)
        for index, layer in enumerate(self._weights.layers):
            layer_kv = kv[:, index]
            q = ops.qk_norm_rope_write(layer.qkv(x), layer.qk_norm, rotary, layer_kv, slots)
            x = layer.output(ops.paged_attention(q, layer_kv, attention, self._scale).flatten(1))
            x, residual = ops.add_rms_norm(x, residual, layer.mlp_norm, eps)
            x = layer.down(ops.silu_mul(layer.gate_up(x)))
            x, residual = ops.add_rms_norm(x, residual, self._next_norm(index), eps)
        return self._weights.head(x[batch.sample_rows]).float()

    def _next_norm(self, index: int) -> Tensor:
        """The norm behind a layer: the next layer's first, or the model's last."""
        layers = self._weights.layers
        return layers[index + 1].attention_norm if index + 1 < len(layers) else self._weights.norm


def _attention_batch(batch: Batch) -> AttentionBatch:
    return AttentionBatch(
        block_tables=batch.block_tables,
        query_start=batch.query_start,
        context_lens=batch.context_lens,
        query_lens=batch.query_lens,
        host_context_lens=batch.host_context_lens,
    )
