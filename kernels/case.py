"""A case of an op: arguments, and how near to its reference an implementation must come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Arguments = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest gap: `atol + rtol * |expected|`."""

    atol: float
    rtol: float


@dataclass(frozen=True, slots=True)
class Case:
    """One set of arguments for an op."""

    name: str
    make: Callable[[str], Arguments]
    """Arguments on a device, made afresh at every call since ops may write into them."""
    tolerance: Tolerance
    observe: Callable[[Arguments, Any], tuple[Tensor, ...]] = lambda _, result: (result,)
    """The tensors to compare, from the arguments after the call and its result."""
    is_large: bool = False
    """Whether it takes seconds in Triton's interpreter, which does not run it then."""


def normal(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same on every machine."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def difference(
    case: Case, run: Callable[..., Any], reference: Callable[..., Any], device: str
) -> str:
    """How an implementation departs from the reference in a case; empty if it does not."""
    observed = _observe(case, run, device)
    expected = _observe(case, reference, device)
    for index, (got, wanted) in enumerate(zip(observed, expected, strict=True)):
        fault = _fault(case, got, wanted)
        if fault:
            return f"output {index} {fault}"
    return ""


def _fault(case: Case, got: Tensor, wanted: Tensor) -> str:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        is_instead = f"is {got.dtype} {list(got.shape)}"
        return f"{is_instead}, not {wanted.dtype} {list(wanted.shape)}"
    gap = (got.double() - wanted.double()).abs()
    # A NaN is never close, so neither side may hold one.
    is_off = ~(gap <= case.tolerance.atol + case.tolerance.rtol * wanted.double().abs()) & (
        got != wanted
    )
    if not is_off.any():
        return ""
    return f"is off by up to {gap[is_off].max().item():.3g} in {int(is_off.sum())} places"


def _observe(case: Case, run: Callable[..., Any], device: str) -> tuple[Tensor, ...]:
    arguments = case.make(device)
    with torch.inference_mode():
        return case.observe(arguments, run(*arguments))
