"""Log-probabilities of the drawn and the likeliest tokens, from a scan of the logits as given."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sample.cuda.choose import TILE, append, floor_of, group_ids, list_groups, top_and_total
from kernels.sample.cuda.values import LOWEST_KEY, key_of, value_of

NUM_WARPS = 8


@triton.jit
def _gather(
    logits_at, top, log_total, vocab_size, groups_ptr, num_groups, floor, keys_ptr, ids_ptr,
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Writes down log-probabilities of listed groups that reach the floor, and counts them."""
    num = tl.full((), 0, tl.int32)
    for start in range(0, num_groups, 64):
        ids, is_listed = group_ids(groups_ptr, start, num_groups, COLUMNS, CHUNK)
        is_inside = is_listed & (ids < vocab_size)
        x = tl.load(logits_at + ids, is_inside, other=-float("inf"))
        keys = key_of((x - top) - log_total)
        num = append(keys, ids, is_inside & (keys >= floor), num, keys_ptr, ids_ptr)
    tl.debug_barrier()
    return num


@triton.jit
def _next(keys_ptr, ids_ptr, num, last_key, last_id):
    """The likeliest candidate behind the last one; of equal ones lower ids lead."""
    best = tl.full((TILE,), -0x80000000, tl.int32)
    best_id = tl.full((TILE,), 0x7FFFFFFF, tl.int32)
    for start in range(0, num, TILE):
        at = start + tl.arange(0, TILE)
        keys = tl.load(keys_ptr + at, at < num, other=LOWEST_KEY)
        ids = tl.load(ids_ptr + at, at < num, other=0)
        is_open = (at < num) & ((keys < last_key) | ((keys == last_key) & (ids > last_id)))
        is_better = is_open & ((keys > best) | ((keys == best) & (ids < best_id)))
        best, best_id = tl.where(is_better, keys, best), tl.where(is_better, ids, best_id)
    key = tl.max(best, axis=0)
    return key, tl.min(tl.where(best == key, best_id, 0x7FFFFFFF), axis=0)


@triton.jit(do_not_specialize=["num_rows", "num_top"])
def likeliest_kernel(
    logits_ptr, sources_ptr, tokens_ptr, facts_ptr, groups_ptr, listed_groups_ptr, keys_ptr,
    ids_ptr, drawn_ptr, logprobs_ptr, top_ids_ptr,
    row_stride, num_rows, vocab_size, num_chunks, num_top,
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS_BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    chunks = tl.arange(0, CHUNKS_BLOCK)
    is_chunk, at = chunks < num_chunks, row * num_chunks + chunks
    top, total = top_and_total(facts_ptr + at, num_rows * num_chunks, is_chunk)
    log_total = tl.log(total)

    source = tl.load(sources_ptr + row)
    logits_at = logits_ptr + source * row_stride
    drawn = tl.load(logits_at + tl.load(tokens_ptr + source))
    tl.store(drawn_ptr + row, (drawn - top) - log_total)

    if num_top > 0:
        wide_row, num_groups = row.to(tl.int64), num_chunks * COLUMNS
        keys_at, ids_at = keys_ptr + wide_row * vocab_size, ids_ptr + wide_row * vocab_size
        listed_at = listed_groups_ptr + wide_row * num_groups
        numbers = tl.arange(0, CHUNKS_BLOCK * COLUMNS)
        is_group = numbers < num_groups
        maxima = tl.load(groups_ptr + wide_row * num_groups + numbers, is_group, -float("inf"))
        # Rounding may make unequal logits equal here, so floors are of log-probabilities, too.
        groups = key_of((maxima - top) - log_total)
        floor = floor_of(groups, num_top)
        num_listed = list_groups(groups, floor, listed_at)
        num = _gather(
            logits_at, top, log_total, vocab_size, listed_at, num_listed, floor, keys_at, ids_at,
            COLUMNS, CHUNK,
        )  # fmt: skip
        key, last_id = tl.full((), 0x7FFFFFFF, tl.int32), tl.full((), -1, tl.int32)
        for place in range(0, num_top):
            key, last_id = _next(keys_at, ids_at, num, key, last_id)
            tl.store(logprobs_ptr + row * num_top + place, value_of(key))
            tl.store(top_ids_ptr + row * num_top + place, last_id.to(tl.int64))
