"""Cases of mix_experts: experts nobody asks hold NaN, and so do those of other workers' ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.case import Arguments, Case, Tolerance, normal
from kernels.mix_experts import Activation, Experts, Mxfp4
from kernels.mix_experts.mxfp4 import narrow
from kernels.route_experts import Routed

SILU = Activation()
GPT_OSS = Activation(alpha=1.702, limit=7.0, offset=1.0)


@dataclass(frozen=True)
class Shape:
    """Tokens and experts of a case."""

    asked: tuple[tuple[int, ...], ...] = ((2, 0), (3, 2), (0, 3))
    """Experts of each token."""
    num_experts: int = 4
    hidden: int = 32
    inner: int = 48
    dtype: torch.dtype = torch.float32
    is_mxfp4: bool = False
    has_bias: bool = False
    activation: Activation = SILU
    scale: float = 1.0
    """Of the tokens: large ones reach the activation's limit."""
    is_strided: bool = False
    """Tokens and weights are views into wider memory."""


def make(device: str, shape: Shape) -> Arguments:
    """Arguments of the op."""
    num_chosen = len(shape.asked[0]) if shape.asked else 2
    asked = torch.tensor(shape.asked, dtype=torch.int32).reshape(-1, num_chosen)
    tokens = normal((len(shape.asked), shape.hidden), seed=1) * shape.scale
    weights = normal(tuple(asked.shape), seed=2).softmax(-1)
    gate_up = _matrices(shape, 2 * shape.inner, shape.hidden, seed=3)
    down = _matrices(shape, shape.hidden, shape.inner, seed=4)
    for expert in set(range(shape.num_experts)) - set(asked.flatten().tolist()):
        for matrices in (gate_up, down):
            _poison(matrices, expert)
    biases: list[Tensor | None] = [None, None]
    if shape.has_bias:
        sizes = (2 * shape.inner, shape.hidden)
        biases = [
            normal((shape.num_experts, size), seed=5, dtype=shape.dtype).to(device)
            for size in sizes
        ]
    experts = Experts(
        gate_up=_place(gate_up, shape, device),
        down=_place(down, shape, device),
        gate_up_bias=biases[0],
        down_bias=biases[1],
        activation=shape.activation,
    )
    x = _widened(tokens.to(shape.dtype).to(device), shape)
    return x, Routed(asked.to(device), weights.to(device)), experts


def _matrices(shape: Shape, outputs: int, inputs: int, seed: int) -> Tensor | Mxfp4:
    whole = normal((shape.num_experts, outputs, inputs), seed=seed) * inputs**-0.5
    return narrow(whole) if shape.is_mxfp4 else whole.to(shape.dtype)


def _poison(matrices: Tensor | Mxfp4, expert: int) -> None:
    if isinstance(matrices, Mxfp4):
        matrices.scales[expert] = 254
        matrices.values[expert] = 0x77
    else:
        matrices[expert] = float("nan")


def _place(matrices: Tensor | Mxfp4, shape: Shape, device: str) -> Tensor | Mxfp4:
    if isinstance(matrices, Mxfp4):
        return Mxfp4(matrices.values.to(device), matrices.scales.to(device))
    return _widened(matrices.to(device), shape)


def _widened(tensor: Tensor, shape: Shape) -> Tensor:
    """The same numbers with gaps between the rows."""
    if not shape.is_strided:
        return tensor
    return torch.cat((tensor, torch.full_like(tensor, float("nan"))), -1)[..., : tensor.shape[-1]]


# Float32 sums of some ten to some hundred products in another order. Half types round what leaves
# the activation (relative 2**-9 for bfloat16, 2**-12 for float16), products of implementations that
# have no float32 output, and the result.
_FLOAT32 = Tolerance(5e-6, 1e-5)
_BFLOAT16 = Tolerance(1.5e-2, 2.0**-6)
_FLOAT16 = Tolerance(2e-3, 2.0**-9)


def _case(name: str, shape: Shape, tolerance: Tolerance = _FLOAT32, **rest: Any) -> Case:
    return Case(name, partial(make, shape=shape), tolerance, **rest)


def _spread(num_tokens: int, num_experts: int, num_chosen: int) -> tuple[tuple[int, ...], ...]:
    """Tokens' experts, all different, no expert evenly asked."""
    return tuple(
        tuple((token * token + place * 3) % num_experts for place in range(num_chosen))
        for token in range(num_tokens)
    )


_MXFP4 = Shape(is_mxfp4=True, hidden=64, inner=32)
_MANY = Shape(_spread(37, 5, 2), num_experts=5)

# The first runs at every start: in bfloat16, since Triton compiles float32 products slowly.
CASES = (
    _case("bfloat16", Shape(dtype=torch.bfloat16), _BFLOAT16),
    _case("three tokens", Shape()),
    _case("no tokens", Shape(())),
    _case("one token, one expert", Shape(((1,),))),
    _case("all ask one expert", Shape(((3,),) * 18)),
    _case("more tokens than a tile", _MANY),
    _case("odd sizes", Shape(hidden=17, inner=23)),
    _case("bias", Shape(has_bias=True)),
    _case("experts of other workers", Shape(((2, -1), (-3, -2), (4, 0), (2**31 - 1, 3)))),
    _case("gpt-oss activation at its limit", Shape(activation=GPT_OSS, scale=40.0)),
    _case("strided", Shape(is_strided=True)),
    _case("mxfp4", _MXFP4),
    _case("mxfp4, gpt-oss", replace(_MXFP4, has_bias=True, activation=GPT_OSS, scale=4.0)),
    _case("mxfp4, several groups of inputs", replace(_MXFP4, hidden=160, inner=96)),
    _case("mxfp4, more tokens than a tile", replace(_MANY, is_mxfp4=True, hidden=32, inner=32)),
    _case("float16", Shape(dtype=torch.float16), _FLOAT16),
    _case("mxfp4, bfloat16", replace(_MXFP4, dtype=torch.bfloat16), _BFLOAT16),
    _case("mxfp4, float16", replace(_MXFP4, dtype=torch.float16), _FLOAT16),
    _case("128 experts", Shape(_spread(9, 128, 8), num_experts=128), is_large=True),
)
