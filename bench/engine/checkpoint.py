"""The checkpoint that is measured: Qwen3's architecture, random weights, made on the fly."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from baton.engine.model.config import ModelConfig, read_config
from baton.engine.model.weights import tensor_shapes

_SPREAD = 0.02
"""Standard deviation of weights, as transformers initialises them."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model's sizes."""

    hidden: int
    inner: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int


SMALL = Sizes(768, 2048, 12, 12, 4, 64, 32_000)
TINY = Sizes(64, 128, 2, 4, 2, 16, 512)


def write_checkpoint(folder: Path, sizes: Sizes) -> ModelConfig:
    """Writes config and weights, float32 with tied embeddings; says what they are."""
    facts = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "head_dim": sizes.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(facts))
    config = read_config(folder)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.ones(shape)
        if len(shape) == 1
        else torch.randn(shape, generator=generator).mul_(_SPREAD)
        for name, shape in tensor_shapes(config).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(folder)
    return config


def _write_tokenizer(folder: Path) -> None:
    """A token per byte: nobody encodes text here, but OpenVINO's pipeline wants a tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def num_step_weights(config: ModelConfig) -> int:
    """Weights that a step multiplies by: all but norms; a tied embedding counts as the head."""
    return sum(
        shape[0] * shape[1]
        for name, shape in tensor_shapes(config).items()
        if len(shape) == 2 and (config.has_tied_embeddings or "embed_tokens" not in name)
    )
