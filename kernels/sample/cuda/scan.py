"""The first pass: every logit once. Each program reads a chunk of a row and leaves its facts."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sample.cuda.values import MIN_P, TOP_P, gumbel, scaled, words_of

# A chunk is 32 lines of 512 tokens, read 4 at a time: a thread of 128 holds 4 columns, so that
# maxima over lines need no exchange. Column c of a chunk's lines is one group of 32 tokens. With 8
# lines at a time a thread takes 128 registers instead of 79, with masks and lists 250, not 168.
COLUMNS = 512
LINES = 4
CHUNK = 32 * COLUMNS
NUM_WARPS = 4


@triton.jit
def is_filtered(row, num_rows, vocab_size, floats_ptr, counts_ptr):
    """Whether a row draws from a part of its tokens."""
    temperature = tl.load(floats_ptr + row)
    top_p = tl.load(floats_ptr + TOP_P * num_rows + row)
    min_p = tl.load(floats_ptr + MIN_P * num_rows + row)
    top_k = tl.load(counts_ptr + row)
    return (temperature > 0) & (((top_k > 0) & (top_k < vocab_size)) | (top_p < 1) | (min_p > 0))


@triton.jit
def _noise(start, row, counts_ptr, num_rows, LINES: tl.constexpr, COLUMNS: tl.constexpr):
    """Noise of LINES x COLUMNS tokens from `start` on: groups of four are neighbours in a line."""
    lines = tl.arange(0, LINES)[:, None]
    quads = tl.arange(0, COLUMNS // 4)[None, :]
    groups = (start + lines * COLUMNS) // 4 + quads
    word_0, word_1, word_2, word_3 = words_of(groups, row, counts_ptr, num_rows)
    # A join's new dimension is the last and fastest: 0 and 2 against 1 and 3 gives 0, 1, 2, 3.
    words = tl.join(tl.join(word_0, word_2), tl.join(word_1, word_3))
    return gumbel(tl.reshape(words, (LINES, COLUMNS)))


@triton.jit
def _exp(x, top):
    """`exp(x - top)`, 0 where x is -infinity even if top is, too."""
    return tl.where(x == -float("inf"), 0.0, tl.exp(x - top))


@triton.jit
def _merged(x, group_max, group_sum):
    """Maxima and sums of exponentials of columns, with the lines `x` taken in."""
    top = tl.maximum(group_max, tl.max(x, axis=0))
    kept = group_sum * _exp(group_max, top)
    return top, kept + tl.sum(_exp(x, top[None, :]), axis=0)


@triton.jit
def _best(noisy, ids, best, best_id):
    """The largest of each column so far and its id; of equal ones the first, so the lower id."""
    top = tl.max(noisy, axis=0)
    at = tl.min(tl.where(noisy == top[None, :], ids, 0x7FFFFFFF), axis=0)
    is_better = top > best
    return tl.where(is_better, top, best), tl.where(is_better, at, best_id)


# Numbers that change from batch to batch must not make a new kernel each.
@triton.jit(do_not_specialize=["num_rows"])
def scan_kernel(
    logits_ptr,
    sources_ptr,
    floats_ptr,
    counts_ptr,
    places_ptr,
    masks_ptr,
    listed_ptr,
    occurrences_ptr,
    bias_ptr,
    facts_ptr,
    best_ids_ptr,
    groups_ptr,
    row_stride,
    num_rows,
    vocab_size,
    num_chunks,
    RAW: tl.constexpr,
    HAS_MASKS: tl.constexpr,
    HAS_LISTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LINES: tl.constexpr,
    CHUNK: tl.constexpr,
):
    chunk, row = tl.program_id(0), tl.program_id(1)
    lists = (listed_ptr, occurrences_ptr, bias_ptr)
    group_max = tl.full((COLUMNS,), -float("inf"), tl.float32)
    group_sum = tl.zeros((COLUMNS,), tl.float32)
    best, best_id = group_max, tl.full((COLUMNS,), 0x7FFFFFFF, tl.int32)
    source, has_noise = row.to(tl.int64), False
    if RAW:
        source = tl.load(sources_ptr + row)
    else:
        has_noise = tl.load(floats_ptr + row) > 0
        has_noise &= not is_filtered(row, num_rows, vocab_size, floats_ptr, counts_ptr)
    logits_at = logits_ptr + source * row_stride
    offsets = tl.arange(0, LINES)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    for start in range(chunk * CHUNK, tl.minimum((chunk + 1) * CHUNK, vocab_size), LINES * COLUMNS):
        ids = start + offsets
        is_inside = ids < vocab_size
        if RAW:
            x = tl.load(logits_at + ids, is_inside, other=-float("inf"))
        else:
            x = scaled(
                logits_at, ids, is_inside, row, num_rows, vocab_size, floats_ptr, places_ptr,
                masks_ptr, lists, HAS_MASKS, HAS_LISTS,
            )  # fmt: skip
        group_max, group_sum = _merged(x, group_max, group_sum)
        if not RAW:
            if has_noise:
                x += _noise(start, row, counts_ptr, num_rows, LINES, COLUMNS)
            best, best_id = _best(x, ids, best, best_id)
    at = row * num_chunks + chunk
    tl.store(groups_ptr + at.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS), group_max)
    top = tl.max(group_max, axis=0)
    tl.store(facts_ptr + at, top)
    tl.store(facts_ptr + num_rows * num_chunks + at, tl.sum(group_sum * _exp(group_max, top), 0))
    if not RAW:
        winner = tl.max(best, axis=0)
        tl.store(facts_ptr + 2 * num_rows * num_chunks + at, winner)
        tl.store(best_ids_ptr + at, tl.min(tl.where(best == winner, best_id, 0x7FFFFFFF), axis=0))
