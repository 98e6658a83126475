"""What ahead-of-time compilation builds of `attend` and `merge`: the shapes of real models."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.launch import Launch
from kernels.paged_attention.cuda.attend import attend, merge
from kernels.paged_attention.cuda.config import PARTS_AT_ONCE, Config, configs, fixed_config, padded

_POINTERS = ("q_ptr", "kv_ptr", "out_ptr")
_INDICES = ("tables_ptr", "items_ptr")
_FLOATS = ("parts_ptr", "norms_ptr", "sinks_ptr")
_STRIDES = ("q_row_stride", "q_head_stride", "block_stride", "side_stride", "head_stride")


@dataclass(frozen=True, slots=True)
class _Model:
    """A layer of a model."""

    name: str
    group: int
    head_dim: int
    block_size: int = 16
    window: int = 0
    has_cap: bool = False
    has_sinks: bool = False


_MODELS = (
    _Model("llama-8b", 4, 128),
    _Model("llama-8b, blocks of 64", 4, 128, block_size=64),
    _Model("llama-70b", 8, 128),
    _Model("gpt-oss, full layer", 8, 64, has_sinks=True),
    _Model("gpt-oss, window layer", 8, 64, window=128, has_sinks=True),
    _Model("gemma-2, window layer", 2, 256, window=4096, has_cap=True),
)


def launches() -> tuple[Launch, ...]:
    """Every kind of tile of every model."""
    return tuple(launch for model in _MODELS for launch in _of(model))


def _of(model: _Model) -> list[Launch]:
    sizes = (model.group, model.head_dim, 2)
    narrow, wide = configs(*sizes, torch.device("cpu"))
    return [
        _attend(f"{model.name}: decode", model, narrow, ("mma.sync",)),
        _attend(f"{model.name}: prefill", model, wide, ("wgmma.mma_async",)),
        _attend(f"{model.name}: fixed", model, fixed_config(*sizes), ("wgmma.mma_async",)),
        _merge(f"{model.name}: merge", model, narrow),
    ]


def _attend(name: str, model: _Model, config: Config, expects: tuple[str, ...]) -> Launch:
    return Launch(
        name,
        attend,
        arguments={
            **dict.fromkeys(_POINTERS, "*bf16:16"),
            **dict.fromkeys(_INDICES, "*i32:16"),
            **dict.fromkeys(_FLOATS if model.has_sinks else _FLOATS[:2], "*fp32:16"),
            **dict.fromkeys(("scale", "soft_cap"), "fp32"),
            **dict.fromkeys((*_STRIDES, "token_stride"), "i32:16"),
            "table_stride": "i32",
        },
        constants={
            **_shared(model, config),
            "KEYS": config.tile.num_keys,
            "BLOCK_SIZE": model.block_size,
            "WINDOW": model.window,
            "HAS_CAP": model.has_cap,
        },
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        expects=(*expects, "cp.async.cg.shared.global"),
    )


def _merge(name: str, model: _Model, config: Config) -> Launch:
    floats = ("parts_ptr", "norms_ptr", *(("sinks_ptr",) if model.has_sinks else ()))
    return Launch(
        name,
        merge,
        arguments={
            **dict.fromkeys(floats, "*fp32:16"),
            "merges_ptr": "*i32:16",
            "out_ptr": "*bf16:16",
        },
        constants={**_shared(model, config), "PARTS": PARTS_AT_ONCE},
    )


def _shared(model: _Model, config: Config) -> dict[str, object]:
    shared: dict[str, object] = {
        "GROUP": model.group,
        "HEAD_DIM": model.head_dim,
        "PADDED_DIM": padded(model.head_dim),
        "ROWS": config.tile.num_rows,
        "HAS_SINKS": model.has_sinks,
    }
    return shared if model.has_sinks else {**shared, "sinks_ptr": None}
