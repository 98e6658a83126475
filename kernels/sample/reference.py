"""Sampling: the definition, one row at a time, every token ranked."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.sample import Sampled, SampleRows
from kernels.sample.philox import gumbel_, philox

_Logprobs = tuple[float, tuple[tuple[int, float], ...]]


def run(logits: Tensor, rows: SampleRows) -> Sampled:
    """See the contract."""
    token_ids = tuple(_draw(logits[row], rows, row) for row in range(logits.shape[0]))
    logprobs = tuple(
        None if count is None else _logprobs(logits[row], token_ids[row], count)
        for row, count in enumerate(rows.logprobs_count)
    )
    return Sampled(token_ids, logprobs)


def _draw(logits: Tensor, rows: SampleRows, row: int) -> int:
    adjusted = _adjust(logits, rows, row)
    if rows.temperature[row] == 0:
        return int(adjusted.argmax())
    ranked, ids = (adjusted / rows.temperature[row]).sort(descending=True, stable=True)
    noisy = _filter(ranked, rows, row) + _noise(ids, rows, row)
    return int(ids[noisy.argmax()])


def _adjust(logits: Tensor, rows: SampleRows, row: int) -> Tensor:
    adjusted = logits.clone()
    allowed = rows.allowed[row]
    if allowed is not None:
        ids = torch.arange(len(logits), device=logits.device)
        adjusted[(allowed[ids // 32] >> (ids % 32)) & 1 == 0] = -torch.inf
    bias_tokens, bias_values = rows.bias_tokens[row], rows.bias_values[row]
    if bias_tokens is not None and bias_values is not None:
        adjusted[bias_tokens] += bias_values
    output = _counts(rows.output_tokens[row], logits)
    is_seen = (_counts(rows.prompt_tokens[row], logits) + output) > 0
    penalty = rows.repetition_penalty[row]
    repeated = torch.where(adjusted > 0, adjusted / penalty, adjusted * penalty)
    adjusted = torch.where(is_seen, repeated, adjusted)
    return (
        adjusted - rows.frequency_penalty[row] * output - rows.presence_penalty[row] * (output > 0)
    )


def _counts(tokens: Tensor | None, logits: Tensor) -> Tensor:
    """How often each token of the vocabulary occurs."""
    if tokens is None:
        return torch.zeros_like(logits)
    ones = torch.ones_like(tokens, dtype=logits.dtype)
    return torch.zeros_like(logits).index_add_(0, tokens, ones)


def _filter(ranked: Tensor, rows: SampleRows, row: int) -> Tensor:
    """Logits in falling order, those not kept at -inf."""
    top_k, top_p = int(rows.top_k[row]), float(rows.top_p[row])
    if top_k > 0:
        ranked = ranked.clone()
        ranked[top_k:] = -torch.inf
    shares = ranked.softmax(-1)
    is_kept = shares >= rows.min_p[row] * shares[0]
    if top_p < 1:
        is_kept &= shares.double().cumsum(-1) - shares < top_p
    is_kept[0] = True
    return ranked.masked_fill(~is_kept, -torch.inf)


def _noise(ids: Tensor, rows: SampleRows, row: int) -> Tensor:
    seed = rows.seed[row]
    position, sample = rows.output_position[row], rows.sample_index[row]
    zero = torch.zeros_like(ids)
    counter = (zero + position, zero + sample, ids // 4, zero)
    words = philox(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    return gumbel_(torch.stack(words).gather(0, (ids % 4)[None])[0].float())


def _logprobs(logits: Tensor, token_id: int, count: int) -> _Logprobs:
    logprobs = logits.log_softmax(-1)
    best, ids = logprobs.sort(descending=True, stable=True)
    top = tuple(zip(ids[:count].tolist(), best[:count].tolist(), strict=True))
    return logprobs[token_id].item(), top
