"""Reading config.json and generation_config.json, old and new, good and bad."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from baton.engine.model.config import GenerationDefaults, ModelConfig, read_config
from baton.errors import ModelError

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(generation: Any = None, **changes: Any) -> ModelConfig:
        config = {name: value for name, value in {**BASE, **changes}.items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(config))
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        return read_config(tmp_path)

    return read


def test_a_plain_llama(read: Any) -> None:
    config = read()

    assert config.architecture == "LlamaForCausalLM"
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 16)
    assert (config.rope.rope_type, config.rope.theta) == ("default", 10_000.0)
    assert config.context_len == 512
    assert config.dtype is None
    assert not config.has_tied_embeddings
    assert not any((config.has_qkv_bias, config.has_output_bias, config.has_mlp_bias))


def test_old_and_new_configs_say_the_same(read: Any) -> None:
    old = read(rope_theta=5e5, rope_scaling=LLAMA3, torch_dtype="bfloat16")
    new = read(rope_parameters={**LLAMA3, "rope_theta": 5e5}, dtype="bfloat16")

    assert new.rope.theta == old.rope.theta == 5e5
    assert new.rope.rope_type == old.rope.rope_type == "llama3"
    assert new.rope.number("factor") == old.rope.number("factor") == 8
    assert new.dtype == old.dtype == "bfloat16"


def test_the_oldest_configs_call_the_rope_type_type(read: Any) -> None:
    assert read(rope_scaling={"type": "linear", "factor": 2.0}).rope.rope_type == "linear"


def test_the_trained_length_is_the_context_unless_given(read: Any) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0}

    assert read(rope_scaling=yarn).rope.number("original_max_position_embeddings") == 512
    given = read(rope_scaling={**yarn, "original_max_position_embeddings": 99})
    assert given.rope.number("original_max_position_embeddings") == 99


@pytest.mark.parametrize(
    ("model_type", "changes", "qkv", "output", "mlp", "qk_norm", "head_dim"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}, True, True, True, False, 16),
        ("llama", {"head_dim": 32}, False, False, False, False, 32),
        ("mistral", {"sliding_window": None}, False, False, False, False, 16),
        ("qwen2", {}, True, False, False, False, 16),
        ("qwen3", {"head_dim": 24}, False, False, False, True, 24),
        ("qwen3", {"attention_bias": True}, True, True, False, True, 128),
    ],
)
def test_what_each_architecture_has(
    read: Any,
    model_type: str,
    changes: dict[str, Any],
    qkv: bool,
    output: bool,
    mlp: bool,
    qk_norm: bool,
    head_dim: int,
) -> None:
    config = read(architectures=..., model_type=model_type, **changes)

    assert config.has_qkv_bias is qkv
    assert config.has_output_bias is output
    assert config.has_mlp_bias is mlp
    assert config.has_qk_norm is qk_norm
    assert config.head_dim == head_dim


@pytest.mark.parametrize(
    ("model_type", "changes", "context_len"),
    [
        ("mistral", {"sliding_window": None}, 512),
        ("mistral", {"sliding_window": 128}, 128),
        ("mistral", {"sliding_window": 4096}, 512),
        ("mistral", {"max_position_embeddings": 32768}, 4096),
        ("llama", {"sliding_window": 128}, 512),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": False}, 512),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": True}, 512),
        ("qwen2", {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 0}, 128),
        ("qwen3", {"sliding_window": 128, "use_sliding_window": True, "max_window_layers": 1}, 128),
        (
            "qwen3",
            {
                "sliding_window": 128,
                "use_sliding_window": True,
                "max_window_layers": 0,
                "layer_types": ["full_attention"] * 2,
            },
            512,
        ),
    ],
)
def test_the_context_ends_with_the_sliding_window(
    read: Any,
    caplog: pytest.LogCaptureFixture,
    model_type: str,
    changes: dict[str, Any],
    context_len: int,
) -> None:
    caplog.set_level(logging.WARNING)

    config = read(architectures=..., model_type=model_type, **changes)

    assert config.context_len == context_len
    longest = changes.get("max_position_embeddings", 512)
    assert bool(caplog.records) is (context_len < longest)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel is not supported.*Qwen3ForCausal",
        ),
        ({"architectures": ..., "model_type": "mamba"}, "architecture mamba is not supported"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic.*default, linear, ll"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope type longrope is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "per layer type"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act gelu is not supported; supported: silu"),
        ({"torch_dtype": "float8_e4m3fn"}, "float8_e4m3fn is not supported; supported: float32"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized by awq"),
        ({"vocab_size": ...}, "vocab_size must be a positive integer, not None"),
        ({"hidden_size": "64"}, "hidden_size must be a positive integer, not '64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, not 0"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number, not 'small'"),
        ({"num_key_value_heads": 3}, "4 is no multiple of num_key_value_heads 3"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
    ],
)
def test_what_cannot_be_served_is_named(read: Any, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ModelError, match=complaint):
        read(**changes)


def test_a_missing_rope_parameter_is_named(read: Any) -> None:
    config = read(rope_scaling={"rope_type": "linear"})

    with pytest.raises(ModelError, match="rope type linear needs the number factor, not None"):
        config.rope.number("factor")


@pytest.mark.parametrize(
    ("generation", "eos", "expected"),
    [
        (None, 2, (2,)),
        (None, None, ()),
        ({"eos_token_id": 7}, 2, (7,)),
        ({"eos_token_id": [7, 8]}, 2, (7, 8)),
        ({"temperature": 1.0}, [2, 3], (2, 3)),
    ],
)
def test_eos_ids_come_from_the_generation_config_first(
    read: Any, generation: Any, eos: Any, expected: tuple[int, ...]
) -> None:
    assert read(generation, eos_token_id=eos).eos_token_ids == expected


def test_sampling_advice_counts_where_the_makers_sample(read: Any) -> None:
    advice = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "repetition_penalty": 1.05}

    assert read({**advice, "do_sample": True}).generation_defaults == GenerationDefaults(
        temperature=0.6, top_p=0.95, top_k=20, repetition_penalty=1.05
    )
    assert read({**advice, "do_sample": False}).generation_defaults == GenerationDefaults()
    assert read({"do_sample": True}).generation_defaults == GenerationDefaults()


def test_a_missing_folder_or_config_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere does not exist; give a Hugging Face model"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config\.json; give a folder downloaded"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_broken_config_names_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(ModelError, match=r"config\.json"):
        read_config(tmp_path)


def test_reading_a_config_loads_no_torch() -> None:
    code = "import sys, baton.engine.model.config; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
