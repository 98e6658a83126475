"""Reads the textual files of a Hugging Face model folder; what is wrong becomes a `ModelError`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.errors import ModelError

TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a request that leaves sampling open gets.

    `generation_config.json` decides only where it says `do_sample: true`. Otherwise the defaults
    are those that users of the OpenAI API expect, temperature 1 and no filter, and not Hugging
    Face's greedy decoding: a client that wants greedy answers asks for temperature 0.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(
            f"{path} is not valid JSON ({error}); copy it again from where the model came from."
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object and holds a {type(value).__name__}.")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is no such file."""
    return read_json(path) if path.is_file() else {}


def eos_token_ids(folder: Path, *configs: Mapping[str, Any]) -> tuple[int, ...]:
    """The end-of-sequence ids of the first of the configs that names any."""
    for config in configs:
        value = config.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
            raise ModelError(
                f"eos_token_id in {folder} must be one or more token ids, not {value!r}."
            )
        return tuple(dict.fromkeys(ids))
    return ()


def context_len(folder: Path, config: Mapping[str, Any]) -> int:
    """The longest sequence the model was made for."""
    value = config.get("max_position_embeddings")
    if type(value) is not int or value < 1:
        raise ModelError(
            f"{folder / 'config.json'} must give max_position_embeddings, the longest sequence in "
            f"tokens, and gives {value!r}."
        )
    return value


def generation_defaults(folder: Path, config: Mapping[str, Any]) -> GenerationDefaults:
    """The sampling defaults of `generation_config.json`; see `GenerationDefaults`."""
    if config.get("do_sample") is not True:
        return GenerationDefaults()
    neutral = GenerationDefaults()
    values: dict[str, Any] = {}
    for name in ("temperature", "top_p", "top_k", "repetition_penalty"):
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ModelError(
                f"{name} in {folder / 'generation_config.json'} is {value!r}, not a number."
            )
        values[name] = type(getattr(neutral, name))(value)
    return GenerationDefaults(**values)


def special_tokens(*configs: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token` and their like by name; the last config that names one decides."""
    found: dict[str, str] = {}
    for config in configs:
        for name, value in config.items():
            content = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(content, str):
                found[name] = content
    return found


def fingerprint(folder: Path) -> str:
    """Names the content of all textual files: equal exactly when text is treated alike."""
    digest = hashlib.blake2b(digest_size=16, person=b"baton-text")
    for name in TEXT_FILES:
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
