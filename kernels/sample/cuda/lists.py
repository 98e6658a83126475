"""Tables of what rows list: bias, and how often tokens occurred.

The tables have an entry for each token of the vocabulary, but only listed tokens' are ever written
or read; a bit per token says which those are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sample.cuda.values import IN_PROMPT

BLOCK = 1024


@triton.jit
def _entry(rows_ptr, tokens_ptr, num_entries, vocab_size, BLOCK: tl.constexpr):
    entries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_inside = entries < num_entries
    row = tl.load(rows_ptr + entries, is_inside, other=0)
    token = tl.load(tokens_ptr + entries, is_inside, other=0)
    return entries, is_inside, row, token, row * vocab_size + token


# Lists grow with every token, which must not make a new kernel each time.
@triton.jit(do_not_specialize=["num_entries"])
def clear_kernel(
    rows_ptr, tokens_ptr, occurrences_ptr, bias_ptr, num_entries, vocab_size, BLOCK: tl.constexpr
):
    """Zeros the entries of listed tokens."""
    _, is_inside, _, _, at = _entry(rows_ptr, tokens_ptr, num_entries, vocab_size, BLOCK)
    tl.store(occurrences_ptr + at, tl.zeros((BLOCK,), tl.int32), is_inside)
    tl.store(bias_ptr + at, tl.zeros((BLOCK,), tl.float32), is_inside)


@triton.jit(do_not_specialize=["num_prompt", "num_output", "num_entries"])
def mark_kernel(
    rows_ptr, tokens_ptr, values_ptr, listed_ptr, occurrences_ptr, bias_ptr,
    num_prompt, num_output, num_entries, vocab_size, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes the entries of listed tokens: first come prompts', then outputs', then biased ones.

    Sums of integers only, so the order in which programs come does not matter.
    """
    entries, is_inside, row, token, at = _entry(
        rows_ptr, tokens_ptr, num_entries, vocab_size, BLOCK
    )
    word = row * ((vocab_size + 31) // 32) + token // 32
    bit = (tl.full((BLOCK,), 1, tl.int32) << (token % 32).to(tl.int32)).to(tl.int32)
    tl.atomic_or(listed_ptr + word, bit, is_inside)
    is_prompt, is_biased = entries < num_prompt, entries >= num_prompt + num_output
    in_prompt = tl.full((BLOCK,), IN_PROMPT, tl.int32)
    tl.atomic_or(occurrences_ptr + at, in_prompt, is_inside & is_prompt)
    ones = tl.full((BLOCK,), 1, tl.int32)
    tl.atomic_add(occurrences_ptr + at, ones, is_inside & ~is_prompt & ~is_biased)
    value_at = values_ptr + entries - (num_prompt + num_output)
    values = tl.load(value_at, is_inside & is_biased, other=0.0)
    tl.store(bias_ptr + at, values, is_inside & is_biased)
