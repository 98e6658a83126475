"""The ops as torch custom ops, `torch.ops.baton.*`: what torch.compile may neither enter nor break.

A model that runs eagerly, or inside a CUDA graph, needs none of this: it calls the table. Importing
this module defines the ops with their shapes; `register` says what runs for a device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels import Ops
from kernels.qk_norm_rope_write import QkNorm, Rotary, Slots
from kernels.sample import PackedRows

_SCHEMAS = (
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
    "silu_mul(Tensor gate_up) -> Tensor",
    "gelu_tanh_mul(Tensor gate_up) -> Tensor",
    "take_rows(Tensor table, Tensor ids) -> Tensor",
    "qk_norm_rope_write(Tensor qkv, Tensor? norm_weight, float eps, Tensor cos, Tensor sin,"
    " Tensor(a!) kv, Tensor blocks, Tensor offsets) -> Tensor",
    "draw(Tensor logits, Tensor floats, Tensor counts, Tensor places, Tensor? masks,"
    " Tensor? listed, Tensor? occurrences, Tensor? bias) -> Tensor",
)
"""Arguments are those of the contracts, values laid flat; `draw` takes `PackedRows` of the sampler
and exists on CUDA only."""

_TABLES: dict[str, Ops] = {}
"""The ops of each device type. Torch's own registry of ops is one per process, too."""


def register(ops: Ops, device: str) -> None:
    """Makes `torch.ops.baton.*` run these ops on tensors of a device (`cpu`, `cuda`, `cuda:1`)."""
    _TABLES[device.partition(":")[0]] = ops


def _table(tensor: Tensor) -> Ops:
    ops = _TABLES.get(tensor.device.type)
    if ops is None:
        raise RuntimeError(
            f"torch.ops.baton has no kernels for {tensor.device.type}: load and register them first"
        )
    return ops


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _table(x).rms_norm(x, weight, eps).contiguous()


def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    out, total = _table(x).add_rms_norm(x, residual, weight, eps)
    return out.contiguous(), total.contiguous()


def _silu_mul(gate_up: Tensor) -> Tensor:
    return _table(gate_up).silu_mul(gate_up).contiguous()


def _gelu_tanh_mul(gate_up: Tensor) -> Tensor:
    return _table(gate_up).gelu_tanh_mul(gate_up).contiguous()


def _take_rows(table: Tensor, ids: Tensor) -> Tensor:
    return _table(table).take_rows(table, ids).contiguous()


def _qk_norm_rope_write(
    qkv: Tensor,
    norm_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    kv: Tensor,
    blocks: Tensor,
    offsets: Tensor,
) -> Tensor:
    norm = None if norm_weight is None else QkNorm(norm_weight, eps)
    run = _table(qkv).qk_norm_rope_write
    return run(qkv, norm, Rotary(cos, sin), kv, Slots(blocks, offsets)).contiguous()


def _draw(
    logits: Tensor,
    floats: Tensor,
    counts: Tensor,
    places: Tensor,
    masks: Tensor | None,
    listed: Tensor | None,
    occurrences: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    from kernels.sample.cuda import draw

    return draw(logits, PackedRows(floats, counts, places, masks, listed, occurrences, bias))


def _like(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _like_twice(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _half(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)


def _rows(table: Tensor, ids: Tensor) -> Tensor:
    return table.new_empty(ids.shape[0], table.shape[1])


def _queries(
    qkv: Tensor,
    norm_weight: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    kv: Tensor,
    blocks: Tensor,
    offsets: Tensor,
) -> Tensor:
    head_dim = kv.shape[4]
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // head_dim - 2 * kv.shape[2], head_dim)


def _token_ids(logits: Tensor, *_: object) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


_RUNS: dict[str, tuple[Callable[..., object], Callable[..., object]]] = {
    "rms_norm": (_rms_norm, _like),
    "add_rms_norm": (_add_rms_norm, _like_twice),
    "silu_mul": (_silu_mul, _half),
    "gelu_tanh_mul": (_gelu_tanh_mul, _half),
    "take_rows": (_take_rows, _rows),
    "qk_norm_rope_write": (_qk_norm_rope_write, _queries),
    "draw": (_draw, _token_ids),
}
"""What computes each op, and what only tells its results' shapes."""


def _define() -> None:
    for schema in _SCHEMAS:
        name, _, signature = schema.partition("(")
        run, shapes = _RUNS[name]
        tags = (torch.Tag.pt2_compliant_tag,)
        torch.library.define(f"baton::{name}", f"({signature}", tags=tags)
        torch.library.impl(f"baton::{name}", "CUDA", run)
        if name != "draw":
            torch.library.impl(f"baton::{name}", "CPU", run)
        torch.library.register_fake(f"baton::{name}", shapes)


_define()
