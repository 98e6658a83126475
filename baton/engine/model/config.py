"""What a Hugging Face model folder says about its model. Loads no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.errors import ModelError

_log = logging.getLogger(__name__)

ARCHITECTURES: Mapping[str, str] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architectures that can be served, and their `model_type`."""

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
DTYPES = ("float32", "bfloat16", "float16")
_TRAINED_LEN = "original_max_position_embeddings"


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """How positions rotate queries and keys; `parameters` are those of its type."""

    rope_type: str
    theta: float
    parameters: Mapping[str, Any]

    def number(self, name: str, default: float | None = None) -> float:
        """A parameter that must be a number."""
        value = self.parameters.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(
                f"config.json: rope type {self.rope_type} needs the number {name}, not {value!r}"
            )
        return float(value)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What the model's makers advise; names and neutral values are those of `SamplingParams`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The facts of a model that its weights and its forward pass need."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope: RopeConfig
    context_len: int
    """Longest sequence in tokens; within a sliding window, if there is one."""
    has_tied_embeddings: bool
    has_qk_norm: bool
    has_qkv_bias: bool
    has_output_bias: bool
    """Whether attention's output projection has a bias."""
    has_mlp_bias: bool
    dtype: str | None
    """The checkpoint's dtype, if the folder names one."""
    eos_token_ids: tuple[int, ...]
    generation_defaults: GenerationDefaults


def read_config(folder: str | Path) -> ModelConfig:
    """The facts in `config.json` and `generation_config.json`; ModelError if unsupported."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(
            f"the model folder {folder} does not exist; give a Hugging Face model folder"
        )
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"the model folder {folder} has no config.json;"
            " give a folder downloaded from Hugging Face"
        )
    raw = _Raw(_read_json(path))
    generation_path = folder / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.is_file() else {}
    return _parse(raw, generation)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return value


class _Raw:
    """A JSON file with checked access: a wrong type is a sentence, not a traceback."""

    def __init__(self, values: Mapping[str, Any], file: str = "config.json") -> None:
        self.values = values
        self._file = file

    def count(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"{self._file}: {name} must be a positive integer, not {value!r}")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(f"{self._file}: {name} must be a number, not {value!r}")
        return float(value)

    def flag(self, name: str) -> bool:
        return bool(self.values.get(name, False))


def _parse(raw: _Raw, generation: Mapping[str, Any]) -> ModelConfig:
    architecture = _architecture(raw.values)
    model_type = ARCHITECTURES[architecture]
    _refuse_unsupported(raw.values)
    num_heads = raw.count("num_attention_heads")
    hidden_size = raw.count("hidden_size")
    is_qwen2, is_qwen3 = model_type == "qwen2", model_type == "qwen3"
    has_attention_bias = model_type in ("llama", "qwen3") and raw.flag("attention_bias")
    config = ModelConfig(
        architecture=architecture,
        vocab_size=raw.count("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.count("intermediate_size"),
        num_layers=raw.count("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=raw.count("num_key_value_heads", 8 if model_type == "mistral" else num_heads),
        head_dim=raw.count("head_dim", 128 if is_qwen3 else hidden_size // num_heads),
        norm_eps=raw.number("rms_norm_eps", 1e-6),
        rope=_rope(raw),
        context_len=_context_len(raw, model_type),
        has_tied_embeddings=raw.flag("tie_word_embeddings"),
        has_qk_norm=is_qwen3,
        has_qkv_bias=is_qwen2 or has_attention_bias,
        has_output_bias=has_attention_bias,
        has_mlp_bias=model_type == "llama" and raw.flag("mlp_bias"),
        dtype=_dtype(raw.values),
        eos_token_ids=_eos_token_ids(generation) or _eos_token_ids(raw.values),
        generation_defaults=_generation_defaults(generation),
    )
    _check_heads(config)
    return config


def _architecture(values: Mapping[str, Any]) -> str:
    named = values.get("architectures")
    if isinstance(named, list) and named:
        found = str(named[0])
    else:
        by_type = {model_type: name for name, model_type in ARCHITECTURES.items()}
        found = by_type.get(str(values.get("model_type")), str(values.get("model_type")))
    if found not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(
            f"config.json: the architecture {found} is not supported; supported: {known}"
        )
    return found


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    activation = values.get("hidden_act", "silu")
    if activation != "silu":
        raise ModelError(f"config.json: hidden_act {activation} is not supported; supported: silu")
    quantization = values.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "an unknown method")
        known = ", ".join(DTYPES)
        raise ModelError(
            f"config.json: weights quantized by {method} are not supported; supported: {known}"
        )


def _check_heads(config: ModelConfig) -> None:
    if config.num_heads % config.num_kv_heads:
        raise ModelError(
            f"config.json: num_attention_heads {config.num_heads} is no multiple of"
            f" num_key_value_heads {config.num_kv_heads}"
        )
    if config.head_dim % 2:
        raise ModelError(
            f"config.json: head_dim {config.head_dim} is odd; rotation needs an even one"
        )


def _rope(raw: _Raw) -> RopeConfig:
    """Both forms: `rope_parameters` (transformers 5), or `rope_theta` beside `rope_scaling` (4)."""
    parameters = raw.values.get("rope_parameters") or raw.values.get("rope_scaling") or {}
    if not isinstance(parameters, dict) or any(isinstance(v, dict) for v in parameters.values()):
        raise ModelError(
            "config.json: rope parameters per layer type are not supported; give one set"
        )
    rope_type = str(parameters.get("rope_type") or parameters.get("type") or "default")
    if rope_type not in ROPE_TYPES:
        known = ", ".join(ROPE_TYPES)
        raise ModelError(
            f"config.json: the rope type {rope_type} is not supported; supported: {known}"
        )
    partial = parameters.get("partial_rotary_factor", raw.values.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise ModelError(
            f"config.json: partial_rotary_factor {partial} is not supported; supported: 1"
        )
    theta = parameters.get("rope_theta")
    return RopeConfig(
        rope_type=rope_type,
        theta=raw.number("rope_theta", 10_000.0) if theta is None else float(theta),
        parameters={} if rope_type == "default" else _scaling(raw, parameters),
    )


def _scaling(raw: _Raw, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a scaled rope type reads, with the length that the model was trained on."""
    named = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    scaling = {name: value for name, value in parameters.items() if name not in named}
    # Some makers keep the length beside the rope parameters; there it leads.
    beside = raw.values.get(_TRAINED_LEN)
    trained_len = beside or scaling.get(_TRAINED_LEN) or raw.values.get("max_position_embeddings")
    return {**scaling, _TRAINED_LEN: trained_len}


def _context_len(raw: _Raw, model_type: str) -> int:
    longest = raw.count("max_position_embeddings")
    window = _sliding_window(raw, model_type)
    if window is None or window >= longest:
        return longest
    _log.warning(
        "the model's attention slides over %d tokens: its context of %d is cut to that",
        window,
        longest,
    )
    return window


def _sliding_window(raw: _Raw, model_type: str) -> int | None:
    """Tokens that some layer looks back; None: every layer sees all."""
    if model_type == "mistral":
        return raw.count("sliding_window", 4096) if _names_window(raw) else None
    if model_type == "llama" or not raw.flag("use_sliding_window"):
        return None
    layer_types = raw.values.get("layer_types")
    first = raw.count("max_window_layers", 28) if raw.values.get("max_window_layers") != 0 else 0
    if layer_types is None and first >= raw.count("num_hidden_layers"):
        return None
    if layer_types is not None and "sliding_attention" not in layer_types:
        return None
    return raw.count("sliding_window", 4096) if _names_window(raw) else None


def _names_window(raw: _Raw) -> bool:
    """False where the config says null: no window. Silence means the architecture's own."""
    return raw.values.get("sliding_window", 4096) is not None


def _dtype(values: Mapping[str, Any]) -> str | None:
    found = values.get("dtype") or values.get("torch_dtype")
    if found is None:
        return None
    name = str(found).removeprefix("torch.")
    if name not in DTYPES:
        raise ModelError(
            f"config.json: the dtype {name} is not supported; supported: {', '.join(DTYPES)}"
        )
    return name


def _eos_token_ids(values: Mapping[str, Any]) -> tuple[int, ...]:
    found = values.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    return tuple(int(token_id) for token_id in ids)


def _generation_defaults(values: Mapping[str, Any]) -> GenerationDefaults:
    """The advice of a folder that samples; neutral values otherwise."""
    if not values.get("do_sample"):
        return GenerationDefaults()
    raw = _Raw(values, "generation_config.json")
    return GenerationDefaults(
        temperature=raw.number("temperature", 1.0),
        top_p=raw.number("top_p", 1.0),
        top_k=int(raw.number("top_k", 0)),
        min_p=raw.number("min_p", 0.0),
        repetition_penalty=raw.number("repetition_penalty", 1.0),
    )
