"""Models by shape, with random weights made where they are used: no checkpoint to download."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baton.engine.model.config import ModelConfig
from baton.engine.model.transformer import Layer, Linear, Transformer, Weights
from baton.engine.model.weights import LoadedModel, tensor_shapes
from kernels import Ops
from kernels.qk_norm_rope_write import QkNorm

_SPREAD = 0.02
"""Standard deviation of weights, as transformers initialises them."""

_COMMON: dict[str, Any] = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "num_key_value_heads": 8,
    "num_attention_heads": 32,
    "head_dim": 128,
    "hidden_size": 4096,
}
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-8b": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 151_936,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "max_position_embeddings": 40_960,
        "rope_theta": 1_000_000.0,
    },
    "llama-3.1-8b": _COMMON
    | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128_256,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "small": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 32_000,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "num_hidden_layers": 12,
        "max_position_embeddings": 4096,
        "rope_theta": 10_000.0,
    },
    "tiny": _COMMON
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_hidden_layers": 2,
        "max_position_embeddings": 4096,
        "rope_theta": 10_000.0,
    },
}
"""Facts of a `config.json`, by name. `small` is for CPUs, `tiny` shows that a run works."""


def write_config(folder: Path, shape: str) -> None:
    """A model folder without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPES[shape]))


@dataclass(frozen=True, slots=True)
class ApartLinear(Linear):
    """A projection of several that were not fused: a product each, then put together."""

    parts: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, weight: Tensor, *sizes: int) -> ApartLinear:
        """Cuts a fused weight, in the same memory."""
        return cls(weight, None, tuple(torch.split(weight, list(sizes))))

    def __call__(self, x: Tensor) -> Tensor:
        """[T, num_outputs]."""
        return torch.cat([x @ part.t() for part in self.parts], dim=-1)


def random_weights(config: ModelConfig, device: str, dtype: torch.dtype) -> Weights:
    """Normal numbers; norms are 1."""
    generator = torch.Generator(device).manual_seed(0)

    def make(name: str) -> Tensor:
        shape = shapes[name]
        if len(shape) == 1:
            return torch.ones(shape, device=device, dtype=dtype)
        made = torch.empty(shape, device=device, dtype=dtype)
        return made.normal_(0.0, _SPREAD, generator=generator)

    def layer(prefix: str) -> Layer:
        def fused(*names: str) -> Linear:
            return Linear(torch.cat([make(f"{prefix}.{name}.weight") for name in names]))

        norm = None
        if config.has_qk_norm:
            num_heads = config.num_heads + config.num_kv_heads
            ones = torch.ones(num_heads, config.head_dim, device=device, dtype=dtype)
            norm = QkNorm(ones, config.norm_eps)
        return Layer(
            attention_norm=make(f"{prefix}.input_layernorm.weight"),
            qkv=fused(*(f"self_attn.{part}_proj" for part in "qkv")),
            qk_norm=norm,
            output=fused("self_attn.o_proj"),
            mlp_norm=make(f"{prefix}.post_attention_layernorm.weight"),
            gate_up=fused("mlp.gate_proj", "mlp.up_proj"),
            down=fused("mlp.down_proj"),
        )

    shapes = tensor_shapes(config)
    layers = tuple(layer(f"model.layers.{index}") for index in range(config.num_layers))
    embedding, head = make("model.embed_tokens.weight"), make("lm_head.weight")
    return Weights(embedding, layers, make("model.norm.weight"), Linear(head))


def model_of(config: ModelConfig, weights: Weights, ops: Ops) -> LoadedModel:
    """A model that never ends a sequence by itself."""
    return LoadedModel(
        config=config,
        transformer=Transformer(config, weights, ops),
        ops=ops,
        fingerprint="random",
        eos_token_ids=(),
        generation_defaults=config.generation_defaults,
    )


def apart(config: ModelConfig, weights: Weights) -> Weights:
    """The same numbers in the same memory, query, key, value, gate and up a product each."""
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    inner = config.intermediate_size
    layers = tuple(
        Layer(
            attention_norm=layer.attention_norm,
            qkv=ApartLinear.of(_weight(layer.qkv), query, key, key),
            qk_norm=layer.qk_norm,
            output=layer.output,
            mlp_norm=layer.mlp_norm,
            gate_up=ApartLinear.of(_weight(layer.gate_up), inner, inner),
            down=layer.down,
        )
        for layer in weights.layers
    )
    return Weights(weights.embedding, layers, weights.norm, weights.head)


def _weight(projection: object) -> Tensor:
    assert isinstance(projection, Linear)
    return projection.weight
