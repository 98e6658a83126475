"""Cases of sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kernels.case import Arguments, Case, Tolerance, normal
from kernels.sample import Sampled, SampleRows


@dataclass(frozen=True)
class Row:
    """How to draw one row; the defaults change nothing."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    sample_index: int = 0
    output_position: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    prompt_tokens: tuple[int, ...] | None = None
    output_tokens: tuple[int, ...] | None = None
    bias: tuple[tuple[int, float], ...] | None = None
    allowed: tuple[int, ...] | None = None
    logprobs_count: int | None = None


def make_rows(rows: tuple[Row, ...], device: str, vocab_size: int) -> SampleRows:
    """The rows as tensors."""

    def column(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor([getattr(row, name) for row in rows], dtype=dtype, device=device)

    def ids(values: tuple[int, ...] | None) -> Tensor | None:
        return None if values is None else torch.tensor(values, dtype=torch.int64, device=device)

    def mask(allowed: tuple[int, ...] | None) -> Tensor | None:
        if allowed is None:
            return None
        words = np.zeros(-(-vocab_size // 32), dtype=np.uint32)
        # Bits beyond the vocabulary must mean nothing.
        for token_id in (*allowed, *range(vocab_size, 32 * len(words))):
            words[token_id // 32] |= np.uint32(1 << token_id % 32)
        return torch.from_numpy(words.view(np.int32)).to(device)

    biases = [None if row.bias is None else tuple(zip(*row.bias, strict=True)) for row in rows]
    return SampleRows(
        temperature=column("temperature", torch.float32),
        top_k=column("top_k", torch.int64),
        top_p=column("top_p", torch.float32),
        min_p=column("min_p", torch.float32),
        seed=column("seed", torch.int64),
        sample_index=column("sample_index", torch.int64),
        output_position=column("output_position", torch.int64),
        repetition_penalty=column("repetition_penalty", torch.float32),
        presence_penalty=column("presence_penalty", torch.float32),
        frequency_penalty=column("frequency_penalty", torch.float32),
        prompt_tokens=tuple(ids(row.prompt_tokens) for row in rows),
        output_tokens=tuple(ids(row.output_tokens) for row in rows),
        bias_tokens=tuple(None if bias is None else ids(bias[0]) for bias in biases),
        bias_values=tuple(
            None if bias is None else torch.tensor(bias[1], dtype=torch.float32, device=device)
            for bias in biases
        ),
        allowed=tuple(mask(row.allowed) for row in rows),
        logprobs_count=tuple(row.logprobs_count for row in rows),
    )


def _make(
    device: str, rows: tuple[Row, ...], vocab_size: int = 101, scale: float = 3.0
) -> Arguments:
    logits = normal((len(rows), vocab_size), seed=vocab_size) * scale
    return logits.to(device), make_rows(rows, device, vocab_size)


def _make_strided(device: str, rows: tuple[Row, ...]) -> Arguments:
    """Rows of logits between which others lie, and that begin at odd places."""
    logits = (normal((3 * len(rows), 107), seed=5) * 3.0).to(device)[::3, 5:104]
    return logits, make_rows(rows, device, 99)


def _make_tied(device: str, rows: tuple[Row, ...]) -> Arguments:
    """Logits of three values only, half of them forbidden, and zeros of both signs."""
    logits = torch.tensor([0.0, -0.0, 1.0, -torch.inf] * 24).repeat(len(rows), 1)
    return logits.to(device), make_rows(rows, device, logits.shape[1])


def _observe(arguments: Arguments, result: Any) -> tuple[Tensor, ...]:
    """Drawn ids, log-probabilities with their ids, and the logits, which must stay."""
    sampled: Sampled = result
    flat = [
        number
        for row in sampled.logprobs
        if row is not None
        for number in (row[0], *(part for pair in row[1] for part in pair))
    ]
    numbers = torch.tensor(flat, dtype=torch.float64)
    return torch.tensor(sampled.token_ids), numbers, arguments[0]


_GREEDY = Row(temperature=0.0)
_PENALISED = Row(
    repetition_penalty=1.7,
    presence_penalty=0.5,
    frequency_penalty=0.3,
    prompt_tokens=(1, 2, 3, 3, 50),
    output_tokens=(7, 7, 7, 8, 3),
)
_SEEDS = (0, 1, -1, 2**62 + 12345, -(2**63), 987654321)


def _spread(row: Row) -> tuple[Row, ...]:
    """The same row under many seeds, positions and samples."""
    return tuple(
        replace(row, seed=seed, output_position=5 * index, sample_index=index % 3)
        for index, seed in enumerate(_SEEDS)
    )


def _few(row: Row) -> tuple[Row, ...]:
    """Two of these, for what does not change with the seed: each row takes Triton's interpreter
    up to seconds."""
    return _spread(row)[2:4]


_MIXED = (
    _GREEDY,
    Row(seed=5),
    Row(seed=5, top_k=3, logprobs_count=2),
    replace(_PENALISED, top_p=0.8, seed=9),
    Row(seed=6, min_p=0.2, logprobs_count=0),
    replace(_GREEDY, bias=((4, 50.0),), logprobs_count=5),
    Row(seed=7, top_k=20, top_p=0.7, min_p=0.05, temperature=0.6),
    replace(_GREEDY, allowed=(0, 31, 32, 63, 100), logprobs_count=3),
    Row(seed=8, allowed=tuple(range(1, 101, 2)), top_p=0.9),
)

_CHUNKED = (
    Row(seed=11, logprobs_count=3),
    replace(_GREEDY, allowed=(3, 16_384), logprobs_count=1),
    Row(seed=12, top_k=50, top_p=0.9),
    Row(seed=13, top_p=0.8, output_tokens=(16_383, 16_384), presence_penalty=2.0),
    Row(seed=14, min_p=0.3, bias=((16_384, 4.0),)),
)
_ENDS = Row(
    repetition_penalty=1.5,
    frequency_penalty=0.4,
    prompt_tokens=(31, 63, 64, 100, 100),
    output_tokens=(31, 0, 95, 96, 31),
    bias=((31, 2.0), (32, 5.0), (100, 3.0)),
)

# Ids must be equal. Log-probabilities sum the vocabulary in float32, in any order.
_TOLERANCE = Tolerance(1e-5, 1e-6)


def _case(name: str, rows: tuple[Row, ...], *, is_large: bool = False, **options: Any) -> Case:
    return Case(name, partial(_make, rows=rows, **options), _TOLERANCE, _observe, is_large)


CASES = (
    _case("mixed rows", _MIXED),
    _case("no rows", ()),
    _case("greedy", (_GREEDY,) * 3),
    _case("greedy with log-probabilities", (replace(_GREEDY, logprobs_count=20), _GREEDY)),
    _case(
        "more log-probabilities than tokens", (replace(_GREEDY, logprobs_count=20),), vocab_size=7
    ),
    _case("one token", _spread(Row(top_k=1, top_p=0.5)), vocab_size=1, is_large=True),
    _case("vocabulary of no multiple of four", _spread(Row()), vocab_size=1003),
    _case("whole vocabulary", _spread(Row(temperature=2.0)), vocab_size=4096),
    _case("large vocabulary", _spread(Row())[:2], vocab_size=151_936, is_large=True),
    _case("vocabulary of two chunks", _CHUNKED, vocab_size=20_001),
    _case("one token in the second chunk", _CHUNKED[:3], vocab_size=16_385),
    _case("top-p of a flat row of two chunks", (Row(top_p=0.97),), vocab_size=18_000, scale=0.1),
    Case("strided rows", partial(_make_strided, rows=_MIXED[:6]), _TOLERANCE, _observe),
    _case("listed tokens at the ends of words", _spread(_ENDS)[:2]),
    _case("cold", _spread(Row(temperature=1e-4))),
    _case("hot", _spread(Row(temperature=100.0))),
    _case("top-k 1", _few(Row(top_k=1)), is_large=True),
    _case("top-k beyond the vocabulary", _few(Row(top_k=5000))),
    _case(
        "top-p under a top-k beyond the vocabulary",
        (Row(top_k=5000, top_p=0.999),),
        vocab_size=4096,
        scale=0.1,
    ),
    _case("top-k of many", _few(Row(top_k=1500))[:1], vocab_size=4096),
    _case("top-p", _few(Row(top_p=0.9))),
    _case("top-p of a flat row", _few(Row(top_p=0.999))[:1], vocab_size=4096, scale=0.1),
    _case("tiny top-p", _few(Row(top_p=1e-6)), is_large=True),
    _case("min-p", _few(Row(min_p=0.1))),
    _case("min-p 1", _few(Row(min_p=1.0)), is_large=True),
    _case("all filters", _few(Row(top_k=40, top_p=0.9, min_p=0.02)), vocab_size=1000),
    _case("penalties", _few(_PENALISED)),
    _case("greedy penalties", (replace(_PENALISED, temperature=0.0), _GREEDY)),
    _case("penalties without output", _few(replace(_PENALISED, output_tokens=None))),
    _case("empty penalties", _few(replace(_PENALISED, output_tokens=(), prompt_tokens=()))),
    _case("forbidden tokens", _few(Row(bias=tuple((i, -torch.inf) for i in range(100))))),
    _case("few tokens are allowed", _few(Row(allowed=(5, 31, 32, 64, 99), logprobs_count=3))),
    _case("one token is allowed", _few(Row(allowed=(100,)))),
    _case("one token is allowed, greedy", (replace(_GREEDY, allowed=(32,)), _GREEDY)),
    _case("all tokens are allowed", _few(Row(allowed=tuple(range(96)))), vocab_size=96),
    _case("fewer tokens are allowed than top-k keeps", _few(Row(allowed=(1, 2), top_k=40))),
    _case(
        "mask under top-p",
        _few(Row(allowed=tuple(range(0, 1003, 7)), top_p=0.9)),
        vocab_size=1003,
    ),
    _case(
        "mask under top-p, few",
        _few(Row(allowed=(3000, 5), top_p=0.9)),
        vocab_size=4099,
        is_large=True,
    ),
    _case("mask under min-p", _few(Row(allowed=(7, 40, 41, 77), min_p=0.1))),
    _case("mask under bias", _few(Row(allowed=(7, 8), bias=((7, -50.0), (9, 100.0))))),
    _case("mask under penalties", _few(replace(_PENALISED, allowed=(7, 8, 50, 51)))),
    _case("bias under penalties", _few(replace(_PENALISED, bias=((7, 3.0), (50, -3.0))))),
    Case(
        "equal logits", partial(_make_tied, rows=_spread(Row(top_k=30))[:3]), _TOLERANCE, _observe
    ),
    # Of 24 equal ones 21 reach half of the mass.
    Case(
        "equal logits under top-p",
        partial(_make_tied, rows=_few(Row(top_p=0.5))[:2]),
        _TOLERANCE,
        _observe,
    ),
    Case("equal greedy logits", partial(_make_tied, rows=(_GREEDY,)), _TOLERANCE, _observe),
    Case(
        "equal log-probabilities",
        partial(_make_tied, rows=(replace(_GREEDY, logprobs_count=20),)),
        _TOLERANCE,
        _observe,
    ),
)
