"""The second pass: one program per row draws from the facts of its chunks.

Rows without filters are done: the best of their chunks' best. The others gather candidates, all
tokens at or above a floor, and cut them exactly. The floor comes from the groups' maxima: the k-th
largest of them is at most the k-th largest token. Where too little lies above it, which is rare, it
sinks, in the end to the bottom, and the same code runs over the whole row.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sample.cuda.scan import is_filtered
from kernels.sample.cuda.values import (
    LOWEST_KEY,
    MIN_P,
    TOP_P,
    gumbel,
    key_of,
    scaled,
    value_of,
    words_of,
)

NUM_WARPS = 8
# Candidates looked at together: at common settings all that a row has. 64 groups of 32.
TILE = tl.constexpr(2048)
# Groups that top-p looks at first, and by how many times more then.
FIRST_GROUPS = tl.constexpr(256)
MORE_GROUPS = tl.constexpr(8)


@triton.jit
def _middle(low, high):
    """Between two 32-bit numbers, held in 64 bits; above the lower unless they are equal."""
    return low + (high - low + 1) // 2


@triton.jit
def floor_of(keys, num_wanted):
    """The largest floor at or above which lie `num_wanted` keys, or a lower one of its 2,048."""
    low, high = tl.full((), LOWEST_KEY, tl.int64), tl.max(keys, axis=0).to(tl.int64)
    # A floor need not be sharp: sharper than 2 ** -12 of a value it only costs steps.
    while high - low >= 2048:
        middle = _middle(low, high)
        is_enough = tl.sum((keys >= middle.to(tl.int32)).to(tl.int32), axis=0) >= num_wanted
        low, high = tl.where(is_enough, middle, low), tl.where(is_enough, high, middle - 1)
    return low.to(tl.int32)


@triton.jit
def list_groups(keys, floor, groups_ptr):
    """Writes down the groups that reach the floor, in their order, and counts them."""
    numbers = tl.arange(0, keys.shape[0])
    is_listed = keys >= floor
    places = tl.cumsum(is_listed.to(tl.int32), axis=0) - 1
    tl.store(groups_ptr + places, numbers, is_listed)
    tl.debug_barrier()
    return tl.sum(is_listed.to(tl.int32), axis=0)


@triton.jit
def group_ids(groups_ptr, start, num_groups, COLUMNS: tl.constexpr, CHUNK: tl.constexpr):
    """Ids of the tokens of 64 listed groups, and which of them there are: [32, 64]."""
    places = start + tl.arange(0, 64)
    group = tl.load(groups_ptr + places, places < num_groups, other=0)
    first = group // COLUMNS * CHUNK + group % COLUMNS
    ids = first[None, :] + tl.arange(0, 32)[:, None] * COLUMNS
    return ids, (places < num_groups)[None, :] & (ids >= 0)


@triton.jit
def append(keys, ids, is_taken, num_taken, keys_ptr, ids_ptr):
    """Writes candidates behind those that were taken before; how many there are now."""
    flags = tl.reshape(is_taken.to(tl.int32), (TILE,))
    places = num_taken + tl.cumsum(flags, axis=0) - 1
    tl.store(keys_ptr + places, tl.reshape(keys, (TILE,)), flags != 0)
    tl.store(ids_ptr + places, tl.reshape(ids, (TILE,)), flags != 0)
    return num_taken + tl.sum(flags, axis=0)


@triton.jit
def _weight_from(keys_ptr, ids_ptr, num, key, cut_key, cut_id, top, BY_MASS: tl.constexpr):
    """How many candidates within a cut have at least a key, or what mass."""
    total = tl.zeros((TILE,), tl.float32)
    for start in range(0, num, TILE):
        at = start + tl.arange(0, TILE)
        keys = tl.load(keys_ptr + at, at < num, other=LOWEST_KEY)
        is_counted = (at < num) & (keys >= key) & (keys >= cut_key)
        if BY_MASS:
            ids = tl.load(ids_ptr + at, at < num, other=0)
            is_counted &= (keys > cut_key) | (ids <= cut_id)
            total += tl.where(is_counted, tl.exp(value_of(keys) - top), 0.0)
        else:
            total += is_counted.to(tl.float32)
    return tl.sum(total, axis=0)


@triton.jit
def _num_equal(keys_ptr, ids_ptr, num, key, last_id):
    """How many candidates have a key and an id up to another."""
    total = tl.zeros((TILE,), tl.int32)
    for start in range(0, num, TILE):
        at = start + tl.arange(0, TILE)
        keys = tl.load(keys_ptr + at, at < num, other=LOWEST_KEY)
        ids = tl.load(ids_ptr + at, at < num, other=0)
        total += ((at < num) & (keys == key) & (ids <= last_id)).to(tl.int32)
    return tl.sum(total, axis=0)


@triton.jit
def _last_id(keys_ptr, ids_ptr, num, key, num_kept, vocab_size):
    """The id up to which `num_kept` candidates have a key: of equal ones lower ids lead."""
    low, high = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32) + vocab_size - 1
    while low < high:
        middle = (low + high) // 2
        is_enough = _num_equal(keys_ptr, ids_ptr, num, key, middle) >= num_kept
        low, high = tl.where(is_enough, low, middle + 1), tl.where(is_enough, middle, high)
    return high


@triton.jit
def _cut(keys_ptr, ids_ptr, num, wanted, cut_key, cut_id, top, vocab_size, BY_MASS: tl.constexpr):
    """Cuts candidates where their weight, from the best on, reaches what is wanted.

    Kept are keys above the first result, and those equal to it with ids up to the second.
    """
    low, high = cut_key.to(tl.int64), key_of(top).to(tl.int64)
    while low < high:
        middle = _middle(low, high)
        weight = _weight_from(
            keys_ptr, ids_ptr, num, middle.to(tl.int32), cut_key, cut_id, top, BY_MASS
        )
        is_enough = weight >= wanted
        low, high = tl.where(is_enough, middle, low), tl.where(is_enough, high, middle - 1)
    key = low.to(tl.int32)
    above = _weight_from(keys_ptr, ids_ptr, num, key + 1, cut_key, cut_id, top, BY_MASS)
    each = 1.0
    if BY_MASS:
        each = tl.exp(value_of(key) - top)
    num_kept = tl.maximum(tl.ceil(tl.div_rn(wanted - above, each)), 1.0).to(tl.int32)
    last_id = tl.full((), 0, tl.int32) + vocab_size
    if _num_equal(keys_ptr, ids_ptr, num, key, vocab_size) > num_kept:
        last_id = _last_id(keys_ptr, ids_ptr, num, key, num_kept, vocab_size)
    return key, last_id


@triton.jit
def _winner(keys_ptr, ids_ptr, num, cut_key, cut_id, floor, row, counts_ptr, num_rows):
    """The candidate within the cut whose value and noise are the largest sum."""
    best = tl.full((TILE,), -float("inf"), tl.float32)
    best_id = tl.full((TILE,), 0x7FFFFFFF, tl.int32)
    for start in range(0, num, TILE):
        at = start + tl.arange(0, TILE)
        keys = tl.load(keys_ptr + at, at < num, other=LOWEST_KEY)
        ids = tl.load(ids_ptr + at, at < num, other=0)
        is_kept = (keys > cut_key) | ((keys == cut_key) & (ids <= cut_id))
        is_kept &= (at < num) & (keys >= floor)
        word_0, word_1, word_2, word_3 = words_of(ids // 4, row, counts_ptr, num_rows)
        lane = ids % 4
        even, odd = tl.where(lane == 0, word_0, word_2), tl.where(lane == 1, word_1, word_3)
        noise = gumbel(tl.where(lane % 2 == 0, even, odd))
        noisy = tl.where(is_kept, value_of(keys) + noise, -float("inf"))
        is_better = (noisy > best) | ((noisy == best) & (ids < best_id) & is_kept)
        best, best_id = tl.where(is_better, noisy, best), tl.where(is_better, ids, best_id)
    top = tl.max(best, axis=0)
    return tl.min(tl.where(best == top, best_id, 0x7FFFFFFF), axis=0)


@triton.jit
def _gather(
    logits_at, row, num_rows, vocab_size, floats_ptr, places_ptr, masks_ptr, lists, groups_ptr,
    num_groups, floor, keys_ptr, ids_ptr, HAS_MASKS: tl.constexpr, HAS_LISTS: tl.constexpr,
    COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Writes down all tokens of listed groups that reach the floor, and counts them."""
    num = tl.full((), 0, tl.int32)
    for start in range(0, num_groups, 64):
        ids, is_listed = group_ids(groups_ptr, start, num_groups, COLUMNS, CHUNK)
        is_inside = is_listed & (ids < vocab_size)
        x = scaled(
            logits_at, ids, is_inside, row, num_rows, vocab_size, floats_ptr, places_ptr,
            masks_ptr, lists, HAS_MASKS, HAS_LISTS,
        )  # fmt: skip
        keys = key_of(x)
        num = append(keys, ids, is_inside & (keys >= floor), num, keys_ptr, ids_ptr)
    tl.debug_barrier()
    return num


@triton.jit
def _cut_twice(keys_ptr, ids_ptr, num, floor, top_k, top_p, top, total, vocab_size):
    """Where top-k and then top-p cut the candidates."""
    cut_key, cut_id = floor, tl.full((), 0, tl.int32) + vocab_size
    is_top_k = (top_k > 0) & (top_k < vocab_size)
    if is_top_k & (num > top_k):
        cut_key, cut_id = _cut(
            keys_ptr, ids_ptr, num, top_k.to(tl.float32), cut_key, cut_id, top, vocab_size, False
        )
    if top_p < 1:
        mass = total
        if is_top_k:
            mass = _weight_from(keys_ptr, ids_ptr, num, cut_key, cut_key, cut_id, top, True)
        cut_key, cut_id = _cut(
            keys_ptr, ids_ptr, num, top_p * mass, cut_key, cut_id, top, vocab_size, True
        )
    return cut_key, cut_id


@triton.jit
def _bounds(groups, is_top_k, is_top_p, top_k, min_p, top):
    """The lowest key that may be drawn, the lowest that counts, and how many groups come first."""
    least = tl.full((), LOWEST_KEY + 1, tl.int32)
    by_min_p = tl.maximum(tl.where(min_p > 0, key_of(top + tl.log(min_p)), least), least)
    # Top-p counts the mass that top-k leaves, with what min-p will drop.
    bottom = tl.where(is_top_k & is_top_p, least, by_min_p)
    num_wanted = tl.where(is_top_k, top_k, tl.where(is_top_p, FIRST_GROUPS, groups.shape[0] + 1))
    return by_min_p, bottom, num_wanted


@triton.jit
def top_and_total(facts_at, num_facts, is_chunk):
    """The largest value of a row and the sum of exponentials below it."""
    tops = tl.load(facts_at, is_chunk, other=-float("inf"))
    sums = tl.load(facts_at + num_facts, is_chunk, other=0.0)
    top = tl.max(tops, axis=0)
    return top, tl.sum(tl.where(sums > 0, sums * tl.exp(tops - top), 0.0), axis=0)


@triton.jit(do_not_specialize=["num_rows"])
def choose_kernel(
    logits_ptr, floats_ptr, counts_ptr, places_ptr, masks_ptr, listed_ptr, occurrences_ptr,
    bias_ptr, facts_ptr, best_ids_ptr, groups_ptr, listed_groups_ptr, keys_ptr, ids_ptr, out_ptr,
    row_stride, num_rows, vocab_size, num_chunks,
    HAS_MASKS: tl.constexpr, HAS_LISTS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
    CHUNKS_BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    chunks = tl.arange(0, CHUNKS_BLOCK)
    is_chunk, at, num_facts = chunks < num_chunks, row * num_chunks + chunks, num_rows * num_chunks
    if is_filtered(row, num_rows, vocab_size, floats_ptr, counts_ptr):
        lists = (listed_ptr, occurrences_ptr, bias_ptr)
        top, total = top_and_total(facts_ptr + at, num_facts, is_chunk)
        top_k = tl.minimum(tl.load(counts_ptr + row), vocab_size).to(tl.int32)
        top_p = tl.load(floats_ptr + TOP_P * num_rows + row)
        min_p = tl.load(floats_ptr + MIN_P * num_rows + row)
        is_top_k, is_top_p = (top_k > 0) & (top_k < vocab_size), top_p < 1
        wide_row, num_groups = row.to(tl.int64), num_chunks * COLUMNS
        logits_at = logits_ptr + wide_row * row_stride
        keys_at, ids_at = keys_ptr + wide_row * vocab_size, ids_ptr + wide_row * vocab_size
        listed_at, groups_at = listed_groups_ptr + wide_row * num_groups, groups_ptr
        numbers = tl.arange(0, CHUNKS_BLOCK * COLUMNS)
        groups_at += wide_row * num_groups + numbers
        groups = key_of(tl.load(groups_at, numbers < num_groups, other=-float("inf")))

        by_min_p, bottom, num_wanted = _bounds(groups, is_top_k, is_top_p, top_k, min_p, top)
        wanted_mass = tl.where(is_top_p & (is_top_k == 0), top_p * total, 0.0)
        floor, num, is_open = bottom, tl.full((), 0, tl.int32), num_wanted > 0
        while is_open:
            floor = tl.maximum(bottom, floor_of(groups, num_wanted))
            num_listed = list_groups(groups, floor, listed_at)
            num = _gather(
                logits_at, row, num_rows, vocab_size, floats_ptr, places_ptr, masks_ptr, lists,
                listed_at, num_listed, floor, keys_at, ids_at, HAS_MASKS, HAS_LISTS, COLUMNS, CHUNK,
            )  # fmt: skip
            mass = _weight_from(keys_at, ids_at, num, floor, floor, vocab_size, top, True)
            is_open = (floor > bottom) & (mass < wanted_mass)
            num_wanted *= MORE_GROUPS
        cut_key, cut_id = _cut_twice(
            keys_at, ids_at, num, floor, top_k, top_p, top, total, vocab_size
        )
        token = _winner(keys_at, ids_at, num, cut_key, cut_id, by_min_p, row, counts_ptr, num_rows)
    else:
        winners = tl.load(facts_ptr + 2 * num_facts + at, is_chunk, other=-float("inf"))
        best_ids = tl.load(best_ids_ptr + at, is_chunk, other=0x7FFFFFFF)
        best = tl.max(winners, axis=0)
        token = tl.min(tl.where(winners == best, best_ids, 0x7FFFFFFF), axis=0)
    tl.store(out_ptr + row, token.to(tl.int64))
