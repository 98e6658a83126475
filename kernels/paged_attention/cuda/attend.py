"""The two kernels: attention of a tile of rows over a range of keys, and the merging of its parts.

Scores are in units of log2, so that a weight is one `exp2`.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def attend(
    q_ptr,
    kv_ptr,
    tables_ptr,
    items_ptr,
    out_ptr,
    parts_ptr,
    norms_ptr,
    sinks_ptr,
    scale,
    soft_cap,
    q_row_stride,
    q_head_stride,
    block_stride,
    side_stride,
    head_stride,
    token_stride,
    table_stride,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """Program (key head, item); `plan.py` says what an item is.

    `parts_ptr` [slots, kv_heads, ROWS, HEAD_DIM] and `norms_ptr` [slots, kv_heads, ROWS] take the
    parts of split tiles: float32, each normalised by itself, and log2 of its sum of weights.
    """
    item = items_ptr + tl.program_id(1) * 8
    num_tokens = tl.load(item + 2)
    if num_tokens == 0:  # padding of a static list
        return
    head = tl.program_id(0)
    first_row = tl.load(item + 1).to(tl.int64)
    position = tl.load(item + 3)
    row = tl.arange(0, ROWS)
    # Rows beyond the tokens repeat the last one: finite, and not stored.
    token = tl.minimum(row // GROUP, num_tokens - 1)
    query_head = head * GROUP + row % GROUP
    dim = tl.arange(0, PADDED_DIM)[None, :]
    places = (first_row + token) * q_row_stride + query_head * q_head_stride
    q = tl.load(q_ptr + places[:, None] + dim, mask=dim < HEAD_DIM, other=0.0)
    acc, total, peak = _attend_to_range(
        q, kv_ptr + head.to(tl.int64) * head_stride,
        tables_ptr + tl.load(item).to(tl.int64) * table_stride,
        position, num_tokens, tl.load(item + 4), tl.load(item + 5), position + token,
        scale, soft_cap, block_stride, side_stride, token_stride,
        HEAD_DIM, KEYS, BLOCK_SIZE, WINDOW, HAS_CAP,
    )  # fmt: skip

    slot = tl.load(item + 6)
    if slot >= 0:
        place = (slot.to(tl.int64) * tl.num_programs(0) + head) * ROWS + row
        # A row that sees no key of this piece weighs nothing: its peak is -inf.
        total = tl.where(total > 0, total, 1.0)
        tl.store(norms_ptr + place, peak + tl.log2(total))
        acc = acc / total[:, None]
        tl.store(parts_ptr + place[:, None] * HEAD_DIM + dim, acc, mask=dim < HEAD_DIM)
    else:
        if HAS_SINKS:
            acc, total = _with_sinks(acc, total, peak, tl.load(sinks_ptr + query_head))
        rows = (first_row + token) * (tl.num_programs(0) * GROUP) + query_head
        is_kept = (row < num_tokens * GROUP)[:, None] & (dim < HEAD_DIM)
        result = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + rows[:, None] * HEAD_DIM + dim, result, mask=is_kept)


@triton.jit
def _attend_to_range(
    q,
    k_ptr,
    table_ptr,
    position,
    num_tokens,
    start,
    end,
    last_seen,
    scale,
    soft_cap,
    block_stride,
    side_stride,
    token_stride,
    HEAD_DIM: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr,
):
    """Weighted values [ROWS, dim], sums of weights [ROWS], highest scores [ROWS]."""
    acc = tl.zeros(q.shape, dtype=tl.float32)
    total = tl.zeros([q.shape[0]], dtype=tl.float32)
    peak = tl.full([q.shape[0]], float("-inf"), dtype=tl.float32)
    dim = tl.arange(0, q.shape[1])[None, :]
    for at in tl.range(start, end, KEYS):
        key = at + tl.arange(0, KEYS)
        rows = _rows_of(table_ptr, at, key, end, block_stride, token_stride, KEYS, BLOCK_SIZE)
        is_there = (key < end)[:, None]
        if q.shape[1] != HEAD_DIM:
            is_there &= dim < HEAD_DIM
        k = tl.load(k_ptr + rows[:, None] + dim, mask=is_there, other=0.0)
        v = tl.load(k_ptr + side_stride + rows[:, None] + dim, mask=is_there, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")
        if HAS_CAP:
            scores = _capped(scores * scale, soft_cap)
        # Only steps at an edge of what the rows see have anything to hide.
        is_edge = at + KEYS > position + 1
        if WINDOW > 0:
            is_edge |= at < position + num_tokens - WINDOW
        if is_edge:
            is_seen = key[None, :] <= last_seen[:, None]
            if WINDOW > 0:
                is_seen &= key[None, :] > last_seen[:, None] - WINDOW
            scores = tl.where(is_seen, scores, float("-inf"))
        factor = LOG2_E if HAS_CAP else scale * LOG2_E
        new_peak = tl.maximum(peak, tl.max(scores, 1) * factor)
        # A row that has seen no key yet has weights of 0, not of exp2(inf - inf).
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(scores * factor - base[:, None])
        shrink = tl.exp2(peak - base)
        total = total * shrink + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        peak = new_peak
    return acc, total, peak


@triton.jit
def _rows_of(
    table_ptr,
    at,
    key,
    end,
    block_stride,
    token_stride,
    KEYS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):
    """Offsets [KEYS] of keys in a head's block 0; 64 bits, as arenas are large."""
    if BLOCK_SIZE % KEYS == 0:
        block = tl.load(table_ptr + at // BLOCK_SIZE)
    else:
        # Ids behind the context are not read.
        block = tl.load(table_ptr + key // BLOCK_SIZE, mask=key < end, other=0)
    return block.to(tl.int64) * block_stride + key % BLOCK_SIZE * token_stride


@triton.jit
def _capped(scores, soft_cap):
    """`soft_cap * tanh(scores / soft_cap)`, by tanh(x) = 1 - 2 / (e**2x + 1)."""
    return soft_cap * (1 - 2 / (tl.exp2(scores * (2 / soft_cap * LOG2_E)) + 1))


@triton.jit
def _with_sinks(acc, total, peak, sinks):
    """Adds scores without values to sums: [ROWS, dim], [ROWS]."""
    sinks = sinks * LOG2_E
    new_peak = tl.maximum(peak, sinks)
    shrink = tl.exp2(peak - new_peak)
    return acc * shrink[:, None], total * shrink + tl.exp2(sinks - new_peak)


@triton.jit
def merge(
    parts_ptr,
    norms_ptr,
    merges_ptr,
    sinks_ptr,
    out_ptr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_SINKS: tl.constexpr,
):
    """Program (row of the tile, key head, merge): PARTS parts at a time, in their order."""
    fields = merges_ptr + tl.program_id(2) * 4
    row = tl.program_id(0)
    head = tl.program_id(1)
    token = row // GROUP
    if token >= tl.load(fields + 1):
        return
    first_row = tl.load(fields).to(tl.int64)
    first_slot = tl.load(fields + 2).to(tl.int64)
    num_slots = tl.load(fields + 3)

    dim = tl.arange(0, PADDED_DIM)
    acc = tl.zeros([PADDED_DIM], dtype=tl.float32)
    total = 0.0
    peak = float("-inf")
    for at in tl.range(0, num_slots, PARTS):
        number = at + tl.arange(0, PARTS)
        is_part = number < num_slots
        place = ((first_slot + number) * tl.num_programs(1) + head) * ROWS + row
        norms = tl.load(norms_ptr + place, mask=is_part, other=float("-inf"))
        parts = tl.load(
            parts_ptr + place[:, None] * HEAD_DIM + dim[None, :],
            mask=is_part[:, None] & (dim < HEAD_DIM)[None, :],
            other=0.0,
        )
        new_peak = tl.maximum(peak, tl.max(norms, 0))
        base = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(norms - base)
        shrink = tl.exp2(peak - base)
        total = total * shrink + tl.sum(weights, 0)
        acc = acc * shrink + tl.sum(weights[:, None] * parts, 0)
        peak = new_peak
    query_head = head * GROUP + row % GROUP
    if HAS_SINKS:
        sink = tl.load(sinks_ptr + query_head) * LOG2_E
        new_peak = tl.maximum(peak, sink)
        shrink = tl.exp2(peak - new_peak)
        acc, total = acc * shrink, total * shrink + tl.exp2(sink - new_peak)
    out_row = (first_row + token) * (tl.num_programs(1) * GROUP) + query_head
    result = (acc / total).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + out_row * HEAD_DIM + dim, result, mask=dim < HEAD_DIM)
