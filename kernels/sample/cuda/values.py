"""What every pass over logits needs: adjusted values, their order as integers, and noise."""

from __future__ import annotations

import triton
import triton.language as tl

# Rows of `PackedRows.floats`; temperature is the first.
TOP_P, MIN_P = tl.constexpr(1), tl.constexpr(2)
REPETITION, PRESENCE, FREQUENCY = tl.constexpr(3), tl.constexpr(4), tl.constexpr(5)
# Rows of `PackedRows.counts`; top-k is the first.
SEED, SAMPLE_INDEX, OUTPUT_POSITION = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
# A prompt's token in the table of occurrences; the bits below count the output's.
IN_PROMPT = tl.constexpr(1 << 30)
# The order of -infinity among keys.
LOWEST_KEY = tl.constexpr(-2139095041)


@triton.jit
def key_of(x):
    """An integer for each float, in the floats' order; 0 and -0 have the same."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def value_of(key):
    """The float of a key."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _bits(words_ptr, ids, is_inside):
    """Bit `id % 32` of word `id // 32` of each id; no bit of ids outside."""
    words = tl.load(words_ptr + ids // 32, is_inside, other=0)
    return ((words >> (ids % 32)) & 1) != 0


@triton.jit
def _listed(x, ids, is_inside, row, at, floats_ptr, num_rows, vocab_size, lists):
    """Bias and penalties of row `at` of the tables, which hold something for listed tokens only."""
    listed_ptr, occurrences_ptr, bias_ptr = lists
    num_words = (vocab_size + 31) // 32
    is_listed = is_inside & _bits(listed_ptr + at * num_words, ids, is_inside)
    occurrences = tl.load(occurrences_ptr + at * vocab_size + ids, is_listed, other=0)
    bias = tl.load(bias_ptr + at * vocab_size + ids, is_listed, other=0.0)
    repetition = tl.load(floats_ptr + REPETITION * num_rows + row)
    presence = tl.load(floats_ptr + PRESENCE * num_rows + row)
    frequency = tl.load(floats_ptr + FREQUENCY * num_rows + row)
    biased = x + bias
    repeated = tl.where(biased > 0, tl.div_rn(biased, repetition), biased * repetition)
    penalised = tl.where(occurrences != 0, repeated, biased)
    num_output = occurrences & (IN_PROMPT - 1)
    penalised -= frequency * num_output.to(tl.float32)
    penalised -= tl.where(num_output > 0, presence, 0.0)
    return tl.where(is_listed, penalised, x)


@triton.jit
def scaled(
    logits_ptr,
    ids,
    is_inside,
    row,
    num_rows,
    vocab_size,
    floats_ptr,
    places_ptr,
    masks_ptr,
    lists,
    HAS_MASKS: tl.constexpr,
    HAS_LISTS: tl.constexpr,
):
    """Logits of a row under mask, bias, penalties and temperature; -infinity of ids outside."""
    x = tl.load(logits_ptr + ids, is_inside, other=-float("inf"))
    if HAS_MASKS:
        mask = tl.load(places_ptr + row).to(tl.int64)
        if mask >= 0:
            num_words = (vocab_size + 31) // 32
            x = tl.where(_bits(masks_ptr + mask * num_words, ids, is_inside), x, -float("inf"))
    if HAS_LISTS:
        at = tl.load(places_ptr + num_rows + row).to(tl.int64)
        if at >= 0:
            x = _listed(x, ids, is_inside, row, at, floats_ptr, num_rows, vocab_size, lists)
    temperature = tl.load(floats_ptr + row)
    # A greedy row's is 0: its logits stay as they are.
    return tl.div_rn(x, tl.where(temperature > 0, temperature, 1.0))


@triton.jit
def words_of(groups, row, counts_ptr, num_rows):
    """The four random words of groups of four tokens: see the contract."""
    seed = tl.load(counts_ptr + SEED * num_rows + row)
    sample = tl.load(counts_ptr + SAMPLE_INDEX * num_rows + row).to(tl.uint32)
    position = tl.load(counts_ptr + OUTPUT_POSITION * num_rows + row).to(tl.uint32)
    counter = groups.to(tl.uint32)
    zeros = counter * 0
    return tl.philox(seed, zeros + position, zeros + sample, counter, zeros)


@triton.jit
def gumbel(word):
    """Standard Gumbel noise of a random word, as `philox.gumbel_` makes it but for last bits."""
    share = (word.to(tl.float32) + 0.5) * 2.3283064365386963e-10  # 2 ** -32
    share = tl.minimum(share, 0.99999994)  # 1 - 2 ** -24
    # log1p(-share): rounding 1 - share loses `lost`, which is the logarithm's error to first order.
    rest = 1.0 - share
    lost = -share - (rest - 1.0)
    return -tl.log(-(tl.log(rest) + lost))
