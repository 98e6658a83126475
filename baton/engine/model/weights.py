"""Loads a folder's safetensors into a transformer, checking every tensor's name and shape."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from baton.engine.model.config import DTYPES, GenerationDefaults, ModelConfig, read_config
from baton.engine.model.fingerprint import fingerprint
from baton.engine.model.transformer import Layer, Linear, Projection, Transformer, Weights
from baton.errors import ModelError
from kernels import Ops
from kernels.native.packed import FORMS, Form, PackedMatrix
from kernels.qk_norm_rope_write import QkNorm

Progress = Callable[[int, int], None]
"""Called with (layers loaded, layers there are)."""

_FILE_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_NUM_NAMED = 4


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run."""

    config: ModelConfig
    transformer: Transformer
    ops: Ops
    """The kernels it runs on; the engine draws tokens with them."""
    fingerprint: str
    """Hexadecimal; equal for folders that compute the same."""
    eos_token_ids: tuple[int, ...]
    generation_defaults: GenerationDefaults


def load_model(
    folder: str | Path,
    device: str,
    dtype: str,
    ops: Ops,
    on_progress: Progress | None = None,
    weights: str = "auto",
    *,
    is_invariant: bool = False,
) -> LoadedModel:
    """Loads a folder; `dtype` is float32, bfloat16, float16, or auto for the checkpoint's own.

    `weights` says what native kernels hold projections in: float32, bfloat16 or int8. Auto holds
    them in bfloat16 where the checkpoint does, which is exact, else in float32. With
    `is_invariant` no bit of a token's logits depends on its batch or chunks. Raises ModelError,
    naming what was found and what is needed, if the folder cannot be served.
    """
    folder = Path(folder)
    _check_choice("dtype", dtype, DTYPES)
    _check_choice("weights", weights, FORMS)
    config = read_config(folder)
    with ExitStack() as stack:
        checkpoint = _Checkpoint(folder, stack)
        checkpoint.check(tensor_shapes(config))
        resolved = (config.dtype or checkpoint.dtype(_EMBEDDING)) if dtype == "auto" else dtype
        checkpoint.place(device, getattr(torch, resolved))
        stored = checkpoint.dtype(_EMBEDDING)
        checkpoint.form = _pick_form(weights, resolved, stored, ops)
        built = _build(config, checkpoint, on_progress)
        name = _name(fingerprint(config, checkpoint.files), stored, checkpoint.form)
    return LoadedModel(
        config=config,
        transformer=Transformer(config, built, ops, is_invariant=is_invariant),
        ops=ops,
        fingerprint=name,
        eos_token_ids=config.eos_token_ids,
        generation_defaults=config.generation_defaults,
    )


def _check_choice(what: str, choice: str, known: Sequence[str]) -> None:
    if choice not in (*known, "auto"):
        raise ModelError(
            f"the {what} {choice} is not supported; supported: auto, {', '.join(known)}"
        )


def _pick_form(wanted: str, dtype: str, stored: str, ops: Ops) -> Form | None:
    """How projections are packed; None: not at all. Raises ModelError."""
    is_packed = ops.is_native and dtype == "float32"
    if wanted == "auto":
        if not is_packed:
            return None
        return "bfloat16" if stored == "bfloat16" else "float32"
    if not is_packed and wanted != dtype:
        raise ModelError(
            f"weights in {wanted} need native kernels and the dtype float32, not {dtype}"
            " (see the log for why native kernels do not run)"
        )
    return next(form for form in FORMS if form == wanted) if is_packed else None


def _name(fingerprint: str, stored: str, form: Form | None) -> str:
    """The fingerprint; another one where packing changes what is computed."""
    if form in (None, "float32", stored):
        return fingerprint
    return hashlib.blake2b(f"{fingerprint} {form}".encode(), digest_size=16).hexdigest()


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that a checkpoint of this model holds, by its name."""
    hidden = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {_EMBEDDING: (config.vocab_size, hidden)}
    for index in range(config.num_layers):
        for name, shape in _layer_shapes(config).items():
            shapes[f"model.layers.{index}.{name}"] = shape
    shapes["model.norm.weight"] = (hidden,)
    if not config.has_tied_embeddings:
        shapes[_HEAD] = (config.vocab_size, hidden)
    return shapes


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    has_bias = {"qkv": config.has_qkv_bias, "o": config.has_output_bias, "mlp": config.has_mlp_bias}
    projections = (
        ("self_attn.q_proj", query, hidden, has_bias["qkv"]),
        ("self_attn.k_proj", key, hidden, has_bias["qkv"]),
        ("self_attn.v_proj", key, hidden, has_bias["qkv"]),
        ("self_attn.o_proj", hidden, query, has_bias["o"]),
        ("mlp.gate_proj", inner, hidden, has_bias["mlp"]),
        ("mlp.up_proj", inner, hidden, has_bias["mlp"]),
        ("mlp.down_proj", hidden, inner, has_bias["mlp"]),
    )
    shapes: dict[str, tuple[int, ...]] = {}
    for name, num_outputs, num_inputs, is_biased in projections:
        shapes[f"{name}.weight"] = (num_outputs, num_inputs)
        if is_biased:
            shapes[f"{name}.bias"] = (num_outputs,)
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"{name}.weight"] = (hidden,)
    if config.has_qk_norm:
        shapes["self_attn.q_norm.weight"] = shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


class _Checkpoint:
    """The tensors of all files of a folder, by name."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.files = _weight_files(folder)
        self._file_of: dict[str, Any] = {}
        for path in self.files:
            try:
                file = stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError) as error:
                raise ModelError(
                    f"{path} cannot be read as safetensors ({error}); download it again"
                    " (Git LFS leaves pointers where files were not fetched)"
                ) from error
            self._file_of.update(dict.fromkeys(file.keys(), file))
        self._device = "cpu"
        self._dtype = torch.float32
        self.form: Form | None = None
        """How projections are packed; None: not at all."""

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """ModelError unless exactly these tensors are there."""
        missing = [name for name in shapes if name not in self._file_of]
        extra = [name for name in self._file_of if name not in shapes and not _is_harmless(name)]
        misshapen = []
        for name, shape in shapes.items():
            found = self._shape(name)
            if found is not None and found != shape:
                misshapen.append(f"{name} {list(found)} instead of {list(shape)}")
        faults = ((missing, "missing"), (extra, "not expected"), (misshapen, "of another shape"))
        parts = [f"{len(names)} {fault}: {_some(names)}" for names, fault in faults if names]
        if parts:
            raise ModelError(
                f"the tensors in {self.folder} do not fit its config.json; {'; '.join(parts)}"
            )

    def dtype(self, name: str) -> str:
        """The dtype that a tensor has in its file."""
        found = self._file_of[name].get_slice(name).get_dtype()
        if found not in _FILE_DTYPES:
            known = ", ".join(_FILE_DTYPES)
            raise ModelError(
                f"{name} is stored as {found}, which is not supported; supported: {known}"
            )
        return _FILE_DTYPES[found]

    def place(self, device: str, dtype: torch.dtype) -> None:
        """Says where `tensor` puts tensors."""
        self._device, self._dtype = device, dtype

    def tensor(self, name: str) -> Tensor:
        """A tensor at its place; its stored dtype must be a floating one that is supported."""
        self.dtype(name)
        stored: Tensor = self._file_of[name].get_tensor(name)
        return stored.to(self._device, self._dtype)

    def linear(self, *names: str) -> Projection:
        """One projection from several that read the same input."""
        weight = torch.cat([self.tensor(f"{name}.weight") for name in names])
        if f"{names[0]}.bias" not in self._file_of:
            return self.projection(weight)
        return self.projection(weight, torch.cat([self.tensor(f"{name}.bias") for name in names]))

    def projection(self, weight: Tensor, bias: Tensor | None = None) -> Projection:
        """Packed, if projections are."""
        if self.form is None:
            return Linear(weight, bias)
        return PackedMatrix(weight, bias, self.form)

    def _shape(self, name: str) -> tuple[int, ...] | None:
        file = self._file_of.get(name)
        return None if file is None else tuple(file.get_slice(name).get_shape())


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _indexed_files(index)
    single = folder / "model.safetensors"
    found = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if not found:
        others = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"; convert {_some(others)} to safetensors" if others else "; download the weights"
        raise ModelError(f"the model folder {folder} has no *.safetensors file{hint}")
    return found


def _indexed_files(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} cannot be read as an index of safetensors files") from error
    files = [index.parent / name for name in names]
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise ModelError(
            f"{index} names {len(absent)} files that are not there: {_some(absent)}; download them"
        )
    return files


def _is_harmless(name: str) -> bool:
    """Tensors that some checkpoints hold though nothing reads them."""
    return name == _HEAD or name.endswith("rotary_emb.inv_freq")


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = ", ..." if len(listed) > _NUM_NAMED else ""
    return ", ".join(listed[:_NUM_NAMED]) + more


def _build(config: ModelConfig, checkpoint: _Checkpoint, on_progress: Progress | None) -> Weights:
    embedding = checkpoint.tensor(_EMBEDDING)
    layers = []
    for index in range(config.num_layers):
        layers.append(_build_layer(config, checkpoint, f"model.layers.{index}"))
        if on_progress is not None:
            on_progress(index + 1, config.num_layers)
    is_tied = config.has_tied_embeddings
    head = checkpoint.projection(embedding if is_tied else checkpoint.tensor(_HEAD))
    norm = checkpoint.tensor("model.norm.weight")
    is_packed = checkpoint.form is not None
    return Weights(None if is_tied and is_packed else embedding, tuple(layers), norm, head)


def _build_layer(config: ModelConfig, checkpoint: _Checkpoint, prefix: str) -> Layer:
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    return Layer(
        attention_norm=checkpoint.tensor(f"{prefix}.input_layernorm.weight"),
        qkv=checkpoint.linear(*(f"{attention}.{part}_proj" for part in "qkv")),
        qk_norm=_build_qk_norm(config, checkpoint, attention) if config.has_qk_norm else None,
        output=checkpoint.linear(f"{attention}.o_proj"),
        mlp_norm=checkpoint.tensor(f"{prefix}.post_attention_layernorm.weight"),
        gate_up=checkpoint.linear(f"{mlp}.gate_proj", f"{mlp}.up_proj"),
        down=checkpoint.linear(f"{mlp}.down_proj"),
    )


def _build_qk_norm(config: ModelConfig, checkpoint: _Checkpoint, prefix: str) -> QkNorm:
    query = checkpoint.tensor(f"{prefix}.q_norm.weight").expand(config.num_heads, -1)
    key = checkpoint.tensor(f"{prefix}.k_norm.weight").expand(config.num_kv_heads, -1)
    return QkNorm(torch.cat((query, key)), config.norm_eps)
