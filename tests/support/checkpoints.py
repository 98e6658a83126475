"""Makes small Hugging Face model folders with random weights, for tests of every layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

KINDS = ("llama", "mistral", "qwen2", "qwen3")
BOS, EOS, USER, ASSISTANT = "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"
VOCAB_SIZE = 384

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' if message['role'] != 'system' else '' }}"
    "{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Small, so that some frequencies of a small head are stretched, some blended, some kept.
    "original_max_position_embeddings": 64,
}

_SHARED: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "bos_token_id": 0,
    "eos_token_id": 1,
}

_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rope_scaling": _LLAMA3_ROPE,
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": None,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 32,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    },
}


def make_checkpoint(folder: Path, kind: str, **overrides: Any) -> Path:
    """Writes a model folder of an architecture in `KINDS` and returns it.

    Overrides replace entries of config.json; besides, `num_shards` (1) splits the weights, `seed`
    (0) draws others and `dtype` (float32) stores them in another dtype. The vocabulary has
    `VOCAB_SIZE` byte-level tokens, bos is 0, eos is 1.
    """
    num_shards, seed = overrides.pop("num_shards", 1), overrides.pop("seed", 0)
    dtype = overrides.pop("dtype", "float32")
    config = {**_SHARED, **_CONFIGS[kind], "torch_dtype": dtype, **overrides}
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    weights = _weights(config, torch.Generator().manual_seed(seed))
    _save(folder, {name: w.to(getattr(torch, dtype)) for name, w in weights.items()}, num_shards)
    _write_tokenizer(folder)
    return folder


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def _weights(config: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights large enough that outputs vary and the best logit stands clear of float noise."""

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    hidden, inner = config["hidden_size"], config["intermediate_size"]
    num_heads, num_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or hidden // num_heads
    has_bias = bool(config.get("attention_bias"))
    is_qwen2 = config["model_type"] == "qwen2"
    projections = (
        ("self_attn.q_proj", num_heads * head_dim, hidden, has_bias or is_qwen2),
        ("self_attn.k_proj", num_kv_heads * head_dim, hidden, has_bias or is_qwen2),
        ("self_attn.v_proj", num_kv_heads * head_dim, hidden, has_bias or is_qwen2),
        ("self_attn.o_proj", hidden, num_heads * head_dim, has_bias),
        ("mlp.gate_proj", inner, hidden, bool(config.get("mlp_bias"))),
        ("mlp.up_proj", inner, hidden, bool(config.get("mlp_bias"))),
        ("mlp.down_proj", hidden, inner, bool(config.get("mlp_bias"))),
    )
    weights = {"model.embed_tokens.weight": normal(config["vocab_size"], hidden, std=0.3)}
    for index in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{index}"
        for name, num_outputs, num_inputs, is_biased in projections:
            # Half as much again as keeps the variance: layers outweigh the embedding in the
            # residual stream, so that a model with tied embeddings does not repeat its input.
            weight = normal(num_outputs, num_inputs, std=1.5 / num_inputs**0.5)
            weights[f"{prefix}.{name}.weight"] = weight
            if is_biased:
                weights[f"{prefix}.{name}.bias"] = normal(num_outputs, std=0.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{name}.weight"] = 1 + normal(hidden, std=0.1)
        if config["model_type"] == "qwen3":
            for name in ("q_norm", "k_norm"):
                weights[f"{prefix}.self_attn.{name}.weight"] = 1 + normal(head_dim, std=0.3)
    weights["model.norm.weight"] = 1 + normal(hidden, std=0.1)
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = normal(config["vocab_size"], hidden, std=0.3)
    return weights


def _save(folder: Path, weights: Mapping[str, Tensor], num_shards: int) -> None:
    metadata = {"format": "pt"}
    if num_shards == 1:
        save_file(dict(weights), folder / "model.safetensors", metadata=metadata)
        return
    names = list(weights)
    weight_map = {}
    for shard in range(num_shards):
        # Strided, so that a layer's tensors lie in several files.
        part = names[shard::num_shards]
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata=metadata)
        weight_map.update(dict.fromkeys(part, file))
    total = sum(weight.nbytes for weight in weights.values())
    _write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )


def _write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer: 4 special tokens, 256 bytes, merges learnt from a few words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = [AddedToken(text, special=True) for text in (BOS, EOS, USER, ASSISTANT)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sentence = "the runner hands the baton to the next runner, and the race goes on in the rain"
    lines = [sentence[start:] for start in range(0, len(sentence), 4)]
    tokenizer.train_from_iterator(lines, trainer)
    filler = [f"<|unused_{i}|>" for i in range(VOCAB_SIZE - tokenizer.get_vocab_size())]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in filler])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": 1024,
        },
    )
