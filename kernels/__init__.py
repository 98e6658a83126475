"""Kernels of Baton: one folder per op with its contract, reference and implementations.

`load` picks an implementation for each op, checks it against the reference and returns the table.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from kernels import native
from kernels.add_rms_norm import AddRmsNorm
from kernels.case import difference
from kernels.gelu_tanh_mul import GeluTanhMul
from kernels.launch import is_interpreted
from kernels.mix_experts import MixExperts
from kernels.mla_decode import MlaDecode
from kernels.pack_blocks import PackBlocks
from kernels.paged_attention import PagedAttention, StaticAttentionPlan
from kernels.qk_norm_rope_write import QkNormRopeWrite
from kernels.rms_norm import RmsNorm
from kernels.route_experts import RouteExperts
from kernels.sample import DeviceSample, Sample
from kernels.silu_mul import SiluMul
from kernels.take_rows import TakeRows
from kernels.unpack_blocks import UnpackBlocks

__all__ = ["IMPLEMENTATIONS", "Ops", "load"]

_log = logging.getLogger(__name__)

IMPLEMENTATIONS: Mapping[str, tuple[str, ...]] = {
    "rms_norm": ("reference", "native", "cuda"),
    "add_rms_norm": ("reference", "native", "cuda"),
    "qk_norm_rope_write": ("reference", "cpu", "native", "cuda"),
    "paged_attention": ("reference", "cpu", "native", "cuda"),
    "silu_mul": ("reference", "native", "cuda"),
    "gelu_tanh_mul": ("reference", "cuda"),
    "take_rows": ("reference", "cpu", "cuda"),
    "sample": ("reference", "cpu", "native", "cuda"),
    "pack_blocks": ("reference", "cpu", "cuda"),
    "unpack_blocks": ("reference", "cpu", "cuda"),
    "route_experts": ("reference", "cpu", "cuda"),
    "mix_experts": ("reference", "cpu", "cuda"),
    "mla_decode": ("reference", "cuda"),
}
"""What there is for each op: `reference` runs anywhere, `native` is C++ on a CPU (see
`kernels.native`), others run with torch or Triton on the device that they name."""


@dataclass(frozen=True, slots=True)
class Ops:
    """The ops a model and a sampler run on; each follows the contract in its folder."""

    rms_norm: RmsNorm
    add_rms_norm: AddRmsNorm
    qk_norm_rope_write: QkNormRopeWrite
    paged_attention: PagedAttention
    silu_mul: SiluMul
    gelu_tanh_mul: GeluTanhMul
    take_rows: TakeRows
    sample: Sample
    pack_blocks: PackBlocks
    unpack_blocks: UnpackBlocks
    route_experts: RouteExperts
    mix_experts: MixExperts
    mla_decode: MlaDecode
    chosen: Mapping[str, str]
    """Each op's implementation, for logs and reports."""

    @property
    def is_native(self) -> bool:
        """Whether every op that has a native implementation uses it."""
        return all(
            self.chosen.get(op) == "native"
            for op, names in IMPLEMENTATIONS.items()
            if "native" in names
        )

    @property
    def device_sample(self) -> DeviceSample | None:
        """The sampler in calls that leave tokens on the device; only `cuda` has them."""
        if self.chosen["sample"] != "cuda":
            return None
        module: Any = import_module("kernels.sample.cuda")
        made: DeviceSample = module
        return made

    def static_attention_plan(
        self, num_sequences: int, heads: tuple[int, int, int], dtype: torch.dtype, device: str
    ) -> StaticAttentionPlan | None:
        """A plan for steps of single tokens that a CUDA graph can read; only `cuda` has one.

        `heads`: query heads, key heads, head_dim.
        """
        if self.chosen["paged_attention"] != "cuda":
            return None
        module = import_module("kernels.paged_attention.cuda")
        num_heads, num_kv_heads, head_dim = heads
        shape = module.Heads(num_heads, num_kv_heads)
        plan: StaticAttentionPlan = module.StaticPlan(num_sequences, shape, head_dim, dtype, device)
        return plan


def load(device: str, choice: str = "") -> Ops:
    """The ops for a device (`cpu`, `cuda`, `cuda:1`), each checked against its reference.

    `choice`, or else the environment's BATON_KERNELS, forces implementations: `reference` for all
    ops, or a list such as `rms_norm=reference,sample=reference`. One that cannot be met raises
    ValueError.
    """
    kind = device.partition(":")[0]
    forced = _parse(choice or os.environ.get("BATON_KERNELS", ""), kind)
    _warn_of_fallbacks(forced, kind)
    chosen = {op: forced.get(op) or _default(op, kind) for op in IMPLEMENTATIONS}
    runs = {op: _checked(op, name, device) for op, name in chosen.items()}
    return Ops(**runs, chosen=chosen)


def _parse(choice: str, kind: str) -> dict[str, str]:
    forced: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in choice.split(","))):
        op, is_one, name = part.rpartition("=")
        ops = (op,) if is_one else tuple(IMPLEMENTATIONS)
        for each in ops:
            _require(each, name, kind, part)
            forced[each] = name
    return forced


def _require(op: str, name: str, kind: str, part: str) -> None:
    if op not in IMPLEMENTATIONS:
        known = ", ".join(IMPLEMENTATIONS)
        raise ValueError(f"the kernel choice {part!r} names the op {op!r}; there are {known}")
    if name not in IMPLEMENTATIONS[op]:
        known = ", ".join(IMPLEMENTATIONS[op])
        raise ValueError(f"the kernel choice {part!r} cannot be met: {op} has {known}")
    if name == "native" and kind == "cpu":
        return _require_native(part)
    # Triton's interpreter runs the kernels for GPUs on the CPU, for tests.
    if name not in ("reference", kind) and not (name == "cuda" and is_interpreted()):
        raise ValueError(f"the kernel choice {part!r} cannot be met: {name} does not run on {kind}")


def _require_native(part: str) -> None:
    try:
        native.find()
    except native.NativeUnavailable as error:
        raise ValueError(f"the kernel choice {part!r} cannot be met: {error}") from error


def _warn_of_fallbacks(forced: Mapping[str, str], kind: str) -> None:
    ops = [op for op, names in IMPLEMENTATIONS.items() if "native" in names and op not in forced]
    if kind != "cpu" or not ops:
        return
    try:
        native.find()
    except native.NativeUnavailable as error:
        _log.warning(
            "native kernels are not available, slower ones run for %s: %s", ", ".join(ops), error
        )


def _default(op: str, kind: str) -> str:
    if kind == "cpu" and "native" in IMPLEMENTATIONS[op] and native.is_available():
        return "native"
    if kind in IMPLEMENTATIONS[op]:
        return kind
    if kind != "cpu":
        # On CPUs a missing implementation means that none beats the reference.
        _log.warning("kernel op=%s has no implementation for %s: its slow reference runs", op, kind)
    return "reference"


def _checked(op: str, name: str, device: str) -> Callable[..., Any]:
    """An implementation that agrees with the reference on the op's smallest case."""
    start = time.perf_counter()
    run: Callable[..., Any] = import_module(f"kernels.{op}.{name}").run
    reference: Callable[..., Any] = import_module(f"kernels.{op}.reference").run
    case = import_module(f"kernels.{op}.cases").CASES[0]
    fault = difference(case, run, reference, device)
    if fault:
        raise RuntimeError(
            f"the kernel {op}={name} is wrong on {device} in case {case.name!r}: {fault}"
        )
    check_ms = (time.perf_counter() - start) * 1e3
    _log.info("kernel op=%s implementation=%s device=%s check_ms=%.1f", op, name, device, check_ms)
    return run
