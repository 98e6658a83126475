"""Mixing experts on a GPU: sort by expert, two grouped products, weighted sum. Four launches.

Nothing is decided on the host, so a CUDA graph may hold it: the grid has room for the most tiles
that so many tokens can need, and programs without a tile end at once. Sums have one order and no
atomics: the same bits at every run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.launch import Launch
from kernels.mix_experts import Activation, Experts, Mxfp4
from kernels.route_experts import Routed

_SORT_WIDTH = 1_024


@triton.jit
def sort_by_expert(asked_ptr, order_ptr, counts_ptr, num_asked, WIDTH: tl.constexpr):
    """Writes where each expert's askers stand, in the order of experts; one expert per program."""
    expert = tl.program_id(0)
    before = tl.zeros((), tl.int32)
    for start in range(0, num_asked, WIDTH):
        at = start + tl.arange(0, WIDTH)
        asked = tl.load(asked_ptr + at, mask=at < num_asked, other=-1)
        before += tl.sum(((asked >= 0) & (asked < expert)).to(tl.int32), 0)
    count = tl.zeros((), tl.int32)
    for start in range(0, num_asked, WIDTH):
        at = start + tl.arange(0, WIDTH)
        asked = tl.load(asked_ptr + at, mask=at < num_asked, other=-1)
        is_mine = (asked == expert).to(tl.int32)
        place = before + count + tl.cumsum(is_mine, 0) - 1
        tl.store(order_ptr + place, at, mask=is_mine > 0)
        count += tl.sum(is_mine, 0)
    tl.store(counts_ptr + expert, count)


@triton.jit
def find_tile(counts_ptr, tile, num_experts, EXPERTS: tl.constexpr, ROWS: tl.constexpr):
    """Expert, first place in the order and number of rows of a tile; no rows behind the last."""
    expert = tl.arange(0, EXPERTS)
    counts = tl.load(counts_ptr + expert, mask=expert < num_experts, other=0)
    tiles = (counts + ROWS - 1) // ROWS
    ends = tl.cumsum(tiles, 0)
    mine = tl.sum((ends <= tile).to(tl.int32), 0)
    is_before = expert < mine
    first = tile - tl.sum(tl.where(is_before, tiles, 0), 0)
    start = tl.sum(tl.where(is_before, counts, 0), 0) + first * ROWS
    count = tl.sum(tl.where(expert == mine, counts, 0), 0) - first * ROWS
    return mine, start, tl.minimum(count, ROWS)


@triton.jit
def load_weights(
    values_ptr,
    scales_ptr,
    outputs,
    is_output,
    start,
    num_inputs,
    stride_output,
    scales_stride,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    IS_MXFP4: tl.constexpr,
    ELEMENT: tl.constexpr,
):
    """[OUTPUTS, INPUTS] of one expert's matrix, from input `start` on, zero outside."""
    if IS_MXFP4:
        byte = start // 2 + tl.arange(0, INPUTS // 2)
        is_inside = is_output[:, None] & (byte < num_inputs // 2)[None, :]
        at = outputs[:, None] * stride_output + byte[None, :]
        pairs = tl.load(values_ptr + at, mask=is_inside, other=0)
        group = start // 32 + tl.arange(0, INPUTS // 32)
        is_inside = is_output[:, None] & (group < num_inputs // 32)[None, :]
        at = outputs[:, None] * scales_stride + group[None, :]
        powers = tl.load(scales_ptr + at, mask=is_inside, other=0)
        halves = tl.reshape(tl.join(pairs & 15, pairs >> 4), (OUTPUTS, INPUTS)).to(tl.uint16)
        # Sign, exponent and mantissa at their places in a float16, whose exponents mean 14 less
        # than a half's: exact, subnormal ones too.
        bits = ((halves & 8) << 12) | ((halves & 7) << 9)
        numbers = bits.to(tl.float16, bitcast=True).to(tl.float32) * 16384.0
        scales = (powers.to(tl.uint32) << 23).to(tl.float32, bitcast=True)
        numbers = tl.reshape(numbers, (OUTPUTS, INPUTS // 32, 32)) * scales[:, :, None]
        weights = tl.reshape(numbers, (OUTPUTS, INPUTS)).to(ELEMENT)
    else:
        at = start + tl.arange(0, INPUTS)
        is_inside = is_output[:, None] & (at < num_inputs)[None, :]
        places = values_ptr + outputs[:, None] * stride_output + at[None, :]
        weights = tl.load(places, mask=is_inside, other=0)
    return weights


@triton.jit
def grouped_product(
    x_ptr,
    values_ptr,
    scales_ptr,
    bias_ptr,
    out_ptr,
    order_ptr,
    counts_ptr,
    num_experts,
    num_outputs,
    num_inputs,
    x_stride,
    out_stride,
    stride_expert,
    stride_output,
    scales_stride_expert,
    scales_stride,
    bias_stride,
    alpha,
    limit,
    offset,
    EXPERTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    SLOTS_PER_ROW: tl.constexpr,
    IS_GATED: tl.constexpr,
    IS_MXFP4: tl.constexpr,
):
    """One tile of an expert's outputs for one tile of the slots that ask it.

    Slot s reads row `s // SLOTS_PER_ROW` of x and writes row s. Gated: the outputs are those of
    gate, their partners of up are `num_outputs` rows further down, and the activation of both is
    written. Weights are the product's left side: it has 64 rows at least, however few slots ask.
    """
    expert, start, count = find_tile(counts_ptr, tl.program_id(1), num_experts, EXPERTS, ROWS)
    if count <= 0:
        return
    ELEMENT: tl.constexpr = x_ptr.dtype.element_ty
    row = tl.arange(0, ROWS)
    is_row = row < count
    slots = tl.load(order_ptr + start + row, mask=is_row, other=0).to(tl.int64)
    x_rows = x_ptr + (slots // SLOTS_PER_ROW)[None, :] * x_stride
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_output = outputs < num_outputs
    values_ptr += expert.to(tl.int64) * stride_expert
    up_values_ptr = values_ptr + num_outputs.to(tl.int64) * stride_output
    up_scales_ptr = scales_ptr
    if IS_MXFP4:
        scales_ptr += expert.to(tl.int64) * scales_stride_expert
        up_scales_ptr = scales_ptr + num_outputs.to(tl.int64) * scales_stride
    total = tl.zeros((OUTPUTS, ROWS), tl.float32)
    partner = tl.zeros((OUTPUTS, ROWS), tl.float32)
    for at in range(0, num_inputs, INPUTS):
        inputs = at + tl.arange(0, INPUTS)
        is_inside = (inputs < num_inputs)[:, None] & is_row[None, :]
        x = tl.load(x_rows + inputs[:, None], mask=is_inside, other=0)
        w = load_weights(
            values_ptr, scales_ptr, outputs, is_output, at, num_inputs, stride_output,
            scales_stride, OUTPUTS, INPUTS, IS_MXFP4, ELEMENT,
        )  # fmt: skip
        total = tl.dot(w, x, total, input_precision="ieee")
        if IS_GATED:
            w = load_weights(
                up_values_ptr, up_scales_ptr, outputs, is_output, at, num_inputs, stride_output,
                scales_stride, OUTPUTS, INPUTS, IS_MXFP4, ELEMENT,
            )  # fmt: skip
            partner = tl.dot(w, x, partner, input_precision="ieee")
    if bias_ptr is not None:
        bias = bias_ptr + expert.to(tl.int64) * bias_stride + outputs
        total += tl.load(bias, mask=is_output, other=0).to(tl.float32)[:, None]
        if IS_GATED:
            up_bias = tl.load(bias + num_outputs, mask=is_output, other=0)
            partner += up_bias.to(tl.float32)[:, None]
    if IS_GATED:
        gate = tl.minimum(total, limit)
        up = tl.minimum(tl.maximum(partner, -limit), limit)
        total = gate / (1 + tl.exp(-alpha * gate)) * (up + offset)
    to = out_ptr + slots[None, :] * out_stride + outputs[:, None]
    tl.store(to, total.to(out_ptr.dtype.element_ty), mask=is_output[:, None] & is_row[None, :])


@triton.jit
def combine(
    said_ptr,
    asked_ptr,
    weights_ptr,
    out_ptr,
    num_experts,
    hidden,
    CHOSEN: tl.constexpr,
    WIDTH: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float32)
    for place in tl.static_range(CHOSEN):
        slot = token * CHOSEN + place
        expert = tl.load(asked_ptr + slot)
        # What experts of other workers would have said is not there: it may be NaN.
        is_ours = (expert >= 0) & (expert < num_experts) & (at < hidden)
        said = tl.load(said_ptr + slot * hidden + at, mask=is_ours, other=0)
        total += said * tl.load(weights_ptr + slot)
    tl.store(out_ptr + token * hidden + at, total.to(out_ptr.dtype.element_ty), mask=at < hidden)


@dataclass(frozen=True, slots=True)
class Tiles:
    """Sizes of a grouped product's tiles."""

    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


def tiles_for(num_asked: int, num_experts: int) -> Tiles:
    """By how many slots ask an expert on average. Compiled, but not tuned on a GPU yet."""
    average = num_asked / num_experts
    if average <= 16:
        return Tiles(rows=16, outputs=64, inputs=128, num_warps=4, num_stages=3)
    if average <= 128:
        return Tiles(rows=64, outputs=64, inputs=64, num_warps=4, num_stages=3)
    return Tiles(rows=128, outputs=128, inputs=64, num_warps=8, num_stages=3)


def run(x: Tensor, routed: Routed, experts: Experts) -> Tensor:
    """See the contract."""
    num_asked, hidden = routed.experts.numel(), x.shape[1]
    num_experts, twice_inner = _values(experts.gate_up).shape[:2]
    chosen = routed.experts.shape[1]
    out = torch.empty((x.shape[0], hidden), dtype=x.dtype, device=x.device)
    if not num_asked:
        return out.zero_()
    order = torch.empty(num_asked, dtype=torch.int32, device=x.device)
    counts = torch.empty(num_experts, dtype=torch.int32, device=x.device)
    sort_by_expert[(num_experts,)](routed.experts, order, counts, num_asked, WIDTH=_SORT_WIDTH)
    inner = torch.empty((num_asked, twice_inner // 2), dtype=x.dtype, device=x.device)
    said = torch.empty((num_asked, hidden), dtype=torch.float32, device=x.device)
    askers = _Askers(order, counts)
    _product(x, experts.gate_up, experts.gate_up_bias, inner, askers, experts.activation)
    _product(inner, experts.down, experts.down_bias, said, askers, None)
    width = min(1_024, triton.next_power_of_2(hidden))
    combine[(x.shape[0], triton.cdiv(hidden, width))](
        said, routed.experts, routed.weights, out, num_experts, hidden, CHOSEN=chosen, WIDTH=width
    )
    return out


@dataclass(frozen=True, slots=True)
class _Askers:
    order: Tensor
    """[num_asked] int32: slots, by expert."""
    counts: Tensor
    """[E] int32: slots of each expert."""


def _product(
    x: Tensor,
    matrices: Tensor | Mxfp4,
    bias: Tensor | None,
    out: Tensor,
    askers: _Askers,
    activation: Activation | None,
) -> None:
    """Writes a row of `out` for each slot: the product, or with an activation its result."""
    values = _values(matrices)
    scales = matrices.scales if isinstance(matrices, Mxfp4) else None
    if x.stride(1) != 1 or values.stride(2) != 1 or (scales is not None and scales.stride(2) != 1):
        raise ValueError("rows of tokens and of experts' matrices must be contiguous")
    num_asked, num_experts = askers.order.numel(), values.shape[0]
    tiles = tiles_for(num_asked, num_experts)
    num_outputs = out.shape[1]
    # Each expert wastes one tile at most, and each tile has a slot.
    most = min(num_asked, num_asked // tiles.rows + num_experts)
    shape = activation or Activation()
    grouped_product[(triton.cdiv(num_outputs, tiles.outputs), most)](
        x,
        values,
        scales,
        bias,
        out,
        askers.order,
        askers.counts,
        num_experts,
        num_outputs,
        x.shape[1],
        x.stride(0),
        out.stride(0),
        *values.stride()[:2],
        *((0, 0) if scales is None else scales.stride()[:2]),
        0 if bias is None else bias.stride(0),
        shape.alpha,
        shape.limit,
        shape.offset,
        EXPERTS=triton.next_power_of_2(num_experts),
        **_constants(tiles, num_asked // x.shape[0], activation is not None, scales is not None),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def _values(matrices: Tensor | Mxfp4) -> Tensor:
    return matrices.values if isinstance(matrices, Mxfp4) else matrices


def _constants(
    tiles: Tiles, slots_per_row: int, is_gated: bool, is_mxfp4: bool
) -> dict[str, int | bool]:
    return {
        "ROWS": tiles.rows,
        "OUTPUTS": tiles.outputs,
        "INPUTS": tiles.inputs,
        "SLOTS_PER_ROW": slots_per_row,
        "IS_GATED": is_gated,
        "IS_MXFP4": is_mxfp4,
    }


_PRODUCT = {
    "x_ptr": "*bf16:16",
    "order_ptr": "*i32:16",
    "counts_ptr": "*i32:16",
    "num_experts": "i32:16",
    "num_outputs": "i32:16",
    "num_inputs": "i32:16",
    "x_stride": "i32:16",
    "out_stride": "i32:16",
    "stride_expert": "i32:16",
    "stride_output": "i32:16",
    "alpha": "fp32",
    "limit": "fp32",
    "offset": "fp32",
}


def _launch(average: int, is_gated: bool, is_mxfp4: bool) -> Launch:
    """Of 128 experts, of which each token chooses 8 (bfloat16) or 4 (MXFP4, with biases)."""
    tiles = tiles_for(average * 128, 128)
    chosen = (4 if is_mxfp4 else 8) if is_gated else 1
    weights = {"values_ptr": "*u8:16" if is_mxfp4 else "*bf16:16"}
    absent = {"scales_ptr": None, "scales_stride_expert": 0, "scales_stride": 0}
    absent |= {"bias_ptr": None, "bias_stride": 0}
    if is_mxfp4:
        # 90 or 92 scales a row: not divisible by 16.
        weights |= {"scales_ptr": "*u8:16", "scales_stride_expert": "i32:16"}
        weights |= {"scales_stride": "i32", "bias_ptr": "*bf16:16", "bias_stride": "i32:16"}
        absent = {}
    return Launch(
        f"{'mxfp4' if is_mxfp4 else 'bf16'}, {'gated' if is_gated else 'plain'}, {average} a tile",
        grouped_product,
        {**_PRODUCT, **weights, "out_ptr": "*bf16:16" if is_gated else "*fp32:16"},
        {"EXPERTS": 128, **_constants(tiles, chosen, is_gated, is_mxfp4), **absent},
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        expects=("wgmma.mma_async",),
        forbids=("mma.sync",),
    )


LAUNCHES = (
    Launch(
        "sort",
        sort_by_expert,
        {
            "asked_ptr": "*i32:16",
            "order_ptr": "*i32:16",
            "counts_ptr": "*i32:16",
            "num_asked": "i32",
        },
        {"WIDTH": _SORT_WIDTH},
    ),
    Launch(
        "combine",
        combine,
        {
            "said_ptr": "*fp32:16",
            "asked_ptr": "*i32:16",
            "weights_ptr": "*fp32:16",
            "out_ptr": "*bf16:16",
            "num_experts": "i32:16",
            "hidden": "i32:16",
        },
        {"CHOSEN": 8, "WIDTH": 1_024},
    ),
    *(
        _launch(average, is_gated, is_mxfp4)
        for average in (1, 64, 512)
        for is_gated in (True, False)
        for is_mxfp4 in (False, True)
    ),
)
