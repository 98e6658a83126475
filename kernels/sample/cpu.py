"""Sampling on CPUs: rows in batches, and no more of a row is ranked or given noise than can win."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from kernels.sample import Sampled, SampleRows
from kernels.sample.philox import gumbel_, philox

_WORD = 0xFFFFFFFF
_CHUNK_COUNTERS = 1 << 16  # 512 KB a tensor: the generator's working set stays in a core's cache
_RANKED_ROWS = 16  # at a time
_NUM_RANKED = 1024  # candidates ranked first where only top-p bounds them, ...
_RANKED_GROWTH = 16  # ... and by how many times more, while their mass does not reach it

_Logprobs = tuple[float, tuple[tuple[int, float], ...]]

Largest: TypeAlias = Callable[[Tensor], Tensor]
"""`largest(values [R, V])`: the column of the largest of each row, [R] int64; first of equals."""

AllWords: TypeAlias = Callable[[int, SampleRows, Tensor], Tensor]
"""`words(num_groups, rows, part)`: of every group of four tokens of the rows `part`, the random
words as float32, [len(part), num_groups, 4]."""


@dataclass(frozen=True, slots=True)
class Passes:
    """What goes over whole rows, and so takes most of the time."""

    words: AllWords
    largest: Largest


def run(logits: Tensor, rows: SampleRows) -> Sampled:
    """See the contract."""
    return draw(logits, rows, Passes(_all_words, _largest))


@torch.inference_mode()
def draw(logits: Tensor, rows: SampleRows, passes: Passes) -> Sampled:
    """See the contract."""
    adjusted = _adjust(logits, rows)
    temperatures = rows.temperature.tolist()
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    has_greedy = len(drawn) < len(adjusted)
    if has_greedy:
        token_ids = passes.largest(adjusted)
    else:
        token_ids = torch.empty(len(adjusted), dtype=torch.int64)
    if drawn:
        _draw(adjusted, rows, (drawn, token_ids), passes)
    return Sampled(tuple(token_ids.tolist()), _all_logprobs(logits, rows, token_ids))


def _largest(values: Tensor) -> Tensor:
    return values.argmax(-1)


def _adjust(logits: Tensor, rows: SampleRows) -> Tensor:
    """Logits under masks, bias and penalties; the given ones where no row has any."""
    changes = (rows.allowed, rows.bias_tokens, rows.prompt_tokens, rows.output_tokens)
    concerned = [
        row
        for row, of_row in enumerate(zip(*changes, strict=True))
        if any(change is not None for change in of_row)
    ]
    if not concerned:
        return logits
    adjusted = logits.clone()
    for row in concerned:
        _adjust_row(adjusted[row], rows, row)
    return adjusted


def _adjust_row(logits: Tensor, rows: SampleRows, row: int) -> None:
    allowed = rows.allowed[row]
    if allowed is not None:
        logits.masked_fill_(_forbidden(allowed, len(logits)), -torch.inf)
    bias_tokens, bias_values = rows.bias_tokens[row], rows.bias_values[row]
    if bias_tokens is not None and bias_values is not None:
        logits[bias_tokens] += bias_values
    output = rows.output_tokens[row]
    seen = [tokens for tokens in (rows.prompt_tokens[row], output) if tokens is not None]
    if seen:
        tokens, penalty = torch.cat(seen), rows.repetition_penalty[row]
        before = logits[tokens]
        logits[tokens] = torch.where(before > 0, before / penalty, before * penalty)
    if output is not None:
        counts = output.bincount()
        tokens = counts.nonzero()[:, 0]
        frequent = logits[tokens] - rows.frequency_penalty[row] * counts[tokens]
        logits[tokens] = frequent - rows.presence_penalty[row]


def _forbidden(allowed: Tensor, vocab_size: int) -> Tensor:
    """The mask's opposite, a bool per token."""
    # Words in memory order are bits in order: on a little-endian machine, as all of ours are.
    bits = np.unpackbits(allowed.numpy().view(np.uint8), count=vocab_size, bitorder="little")
    return torch.from_numpy(bits == 0)


def _draw(
    logits: Tensor, rows: SampleRows, found: tuple[list[int], Tensor], passes: Passes
) -> None:
    """Writes the tokens of rows that are not greedy."""
    (drawn, token_ids), vocab_size = found, logits.shape[1]
    top_k, top_p = rows.top_k.tolist(), rows.top_p.tolist()
    unranked: list[int] = []
    # A row's way depends on its own settings only, and so does its result.
    ranked: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for row in drawn:
        if 0 < top_k[row] < vocab_size:
            size_class = 1 << (top_k[row] - 1).bit_length()
            ranked[min(size_class, vocab_size), True].append(row)
        elif top_p[row] < 1:
            ranked[min(_NUM_RANKED, vocab_size), False].append(row)
        else:
            unranked.append(row)
    for part in _chunks(unranked, max(1, _CHUNK_COUNTERS * 4 // vocab_size)):
        token_ids[part] = _draw_unranked(logits, rows, part, passes)
    for (num_ranked, is_top_k), members in ranked.items():
        for part in _chunks(members, _RANKED_ROWS):
            token_ids[part] = _draw_ranked(logits, rows, part, num_ranked, is_top_k=is_top_k)


def _rows_of(logits: Tensor, part: Tensor) -> Tensor:
    """A copy; indexing by a tensor would take many times as long."""
    return logits.index_select(0, part)


def _chunks(members: list[int], size: int) -> Iterator[Tensor]:
    for start in range(0, len(members), size):
        yield torch.tensor(members[start : start + size])


def _draw_unranked(logits: Tensor, rows: SampleRows, part: Tensor, passes: Passes) -> Tensor:
    scaled = _rows_of(logits, part).div_(rows.temperature[part, None])
    if rows.min_p[part].any():
        is_dropped = scaled < _lowest(scaled.amax(-1, keepdim=True), rows, part)
        scaled.masked_fill_(is_dropped, -torch.inf)
    vocab_size = scaled.shape[1]
    noise = gumbel_(passes.words(-(-vocab_size // 4), rows, part))
    return passes.largest(scaled.add_(noise.flatten(1)[:, :vocab_size]))


def _all_words(num_groups: int, rows: SampleRows, part: Tensor) -> Tensor:
    found = torch.empty(len(part), num_groups, 4)
    for lane, words in enumerate(_words(torch.arange(num_groups)[None], rows, part)):
        found[:, :, lane] = words
    return found


def _draw_ranked(
    logits: Tensor, rows: SampleRows, part: Tensor, num_ranked: int, *, is_top_k: bool
) -> Tensor:
    scaled = _rows_of(logits, part).div_(rows.temperature[part, None])
    ranked, ids = _rank(scaled, num_ranked)
    top_p = rows.top_p[part, None]
    if is_top_k:
        ranked.masked_fill_(torch.arange(num_ranked) >= rows.top_k[part, None], -torch.inf)
        shares = ranked.softmax(-1)
    else:
        shares = scaled.softmax(-1).gather(-1, ids)
    mass_before = shares.double().cumsum(-1) - shares
    is_dropped = (mass_before >= top_p) & (top_p < 1)
    is_short = ~is_dropped[:, -1]
    is_dropped |= ranked < _lowest(ranked[:, :1], rows, part)
    is_dropped[:, 0] = False
    ranked.masked_fill_(is_dropped, -torch.inf)
    winners = ranked.add_(_noise(ids, rows, part)).argmax(-1, keepdim=True)
    token_ids = ids.gather(-1, winners)[:, 0]
    if not is_top_k and num_ranked < logits.shape[1] and is_short.any():
        more = min(num_ranked * _RANKED_GROWTH, logits.shape[1])
        token_ids[is_short] = _draw_ranked(logits, rows, part[is_short], more, is_top_k=False)
    return token_ids


def _lowest(best: Tensor, rows: SampleRows, part: Tensor) -> Tensor:
    """The lowest scaled logit that min-p keeps, from each row's best."""
    return best + rows.min_p[part, None].log()


def _rank(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest values of each row and their columns; of equal ones the lower column leads."""
    if count == 0:
        return values[:, :0], torch.empty(len(values), 0, dtype=torch.int64)
    if count == values.shape[1]:
        best, columns = values.sort(dim=-1, descending=True, stable=True)
        return best, columns
    # Which of equal values topk leaves out is not said: rows where it had to are ranked whole.
    best, columns = values.topk(count + 1, dim=-1)
    is_tied = best[:, count] == best[:, count - 1]
    columns = _in_order(best[:, :count], columns[:, :count], count)
    if is_tied.any():
        tied = values[is_tied]
        columns[is_tied] = _in_order(tied, torch.arange(tied.shape[1]), count)
    return values.gather(-1, columns), columns


def _in_order(values: Tensor, columns: Tensor, count: int) -> Tensor:
    """The columns of the largest `count` of some values of each row.

    Value and column become one integer, so that no two are equal and the order is the same in any
    batch.
    """
    bits = (values + 0.0).view(torch.int32).long()  # adding 0 makes -0 equal to 0
    keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # ordered like the floats
    keys = (keys << 32).add_(_WORD - columns)
    best = keys.topk(count, dim=-1, sorted=True).values
    return (best & _WORD).neg_().add_(_WORD)


def _noise(ids: Tensor, rows: SampleRows, part: Tensor) -> Tensor:
    """Gumbel noise of some tokens of each row: [rows, ids]."""
    words = torch.stack(_words(ids // 4, rows, part), dim=-1)
    return gumbel_(words.gather(-1, (ids % 4)[..., None])[..., 0].float())


def _words(groups: Tensor, rows: SampleRows, part: Tensor) -> tuple[Tensor, ...]:
    """The four random words of groups of four tokens of each row."""
    seed = rows.seed[part, None]
    position, sample = rows.output_position[part, None], rows.sample_index[part, None]
    zero = torch.zeros(len(part), groups.shape[1], dtype=torch.int64)
    counter = (zero + position, zero + sample, zero + groups, zero)
    return philox(counter, (seed & _WORD, (seed >> 32) & _WORD))


def _all_logprobs(
    logits: Tensor, rows: SampleRows, token_ids: Tensor
) -> tuple[_Logprobs | None, ...]:
    counts = {row: count for row, count in enumerate(rows.logprobs_count) if count is not None}
    found: list[_Logprobs | None] = [None] * len(rows.logprobs_count)
    if not counts:
        return tuple(found)
    part = torch.tensor(list(counts))
    logprobs = _rows_of(logits, part).log_softmax(-1)
    drawn = logprobs.gather(-1, token_ids[part, None])[:, 0].tolist()
    best, ids = _rank(logprobs, min(max(counts.values()), logits.shape[1]))
    tops = zip(ids.tolist(), best.tolist(), strict=True)
    for (row, count), logprob, top in zip(counts.items(), drawn, tops, strict=True):
        top_ids, top_logprobs = top
        pairs = zip(top_ids[:count], top_logprobs[:count], strict=True)
        found[row] = (logprob, tuple(pairs))
    return tuple(found)
