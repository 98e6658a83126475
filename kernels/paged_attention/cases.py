"""Cases of paged_attention. Unused slots hold NaN, tables are padded with ids of no block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from kernels.case import Arguments, Case, Tolerance, normal
from kernels.paged_attention import AttentionBatch

_NUM_LAYERS = 3
_NO_BLOCK = 2**31 - 1


@dataclass(frozen=True)
class Shape:
    """Sequences and sizes of a case."""

    query_lens: tuple[int, ...]
    context_lens: tuple[int, ...]
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    block_size: int = 4
    dtype: torch.dtype = torch.float32
    num_shared_blocks: int = 0
    """Blocks that all sequences begin with; the others are their own."""
    num_blocks: int = 64
    block_seed: int = 5
    """Chooses which blocks hold which sequence."""
    scale: float = 1.0
    """Of the queries."""


def make(device: str, shape: Shape) -> Arguments:
    """Arguments of a shape: equal for all values of `block_seed` but for the blocks' places."""
    tables = _tables(shape)
    arena = torch.full(
        (shape.num_blocks, _NUM_LAYERS, 2, shape.num_kv_heads, shape.block_size, shape.head_dim),
        float("nan"),
        dtype=shape.dtype,
    )
    for index, context_len in enumerate(shape.context_lens):
        _fill(arena[:, 1], tables[index], _context(shape, index, context_len))
    num_tokens = sum(shape.query_lens)
    q = normal((num_tokens, shape.num_heads, shape.head_dim), seed=1, dtype=shape.dtype)
    starts = torch.tensor((0, *shape.query_lens)).cumsum(0)
    batch = AttentionBatch(
        block_tables=tables.to(device),
        query_start=starts.int().to(device),
        context_lens=torch.tensor(shape.context_lens, dtype=torch.int32, device=device),
        query_lens=shape.query_lens,
        host_context_lens=shape.context_lens,
    )
    return (q * shape.scale).to(device), arena.to(device)[:, 1], batch, shape.head_dim**-0.5


def _tables(shape: Shape) -> Tensor:
    generator = torch.Generator().manual_seed(shape.block_seed)
    free = torch.randperm(shape.num_blocks, generator=generator).tolist()
    shared = [free.pop() for _ in range(shape.num_shared_blocks)]
    rows = []
    for context_len in shape.context_lens:
        num_blocks = -(-context_len // shape.block_size)
        rows.append((shared + [free.pop() for _ in range(num_blocks)])[:num_blocks])
    width = max(map(len, rows), default=0) + 1
    padded = [row + [_NO_BLOCK] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int32).reshape(len(rows), width)


def _context(shape: Shape, index: int, context_len: int) -> Tensor:
    """Keys and values of a sequence, alike where blocks are shared.

    [context_len, 2, num_kv_heads, head_dim].
    """
    size = (2, shape.num_kv_heads, shape.head_dim)
    num_shared = shape.num_shared_blocks * shape.block_size
    shared = normal((num_shared, *size), seed=9, dtype=shape.dtype)
    own = normal((context_len, *size), seed=10 + index, dtype=shape.dtype)
    return torch.cat((shared, own))[:context_len]


def _fill(kv: Tensor, table: Tensor, context: Tensor) -> None:
    block_size = kv.shape[3]
    for position, token in enumerate(context):
        kv[table[position // block_size], :, :, position % block_size] = token


# Scores and weighted sums in another order: float32 roundings of sums of some hundred terms. Half
# types round the weights of attention to 2**-9 (bfloat16) or 2**-11 before the second product, and
# the result once more.
_FLOAT32 = Tolerance(2e-6, 1e-5)
_BFLOAT16 = Tolerance(2e-2, 2.0**-6)
_FLOAT16 = Tolerance(3e-3, 2.0**-9)


def _case(name: str, shape: Shape, tolerance: Tolerance) -> Case:
    return Case(name, partial(make, shape=shape), tolerance)


_DECODE = Shape(query_lens=(1,) * 5, context_lens=(1, 3, 4, 5, 33))
_PREFILL = Shape(query_lens=(7, 4, 2), context_lens=(7, 9, 16))
_MIXED = Shape(query_lens=(1, 3, 0, 1, 5, 1), context_lens=(8, 3, 6, 1, 17, 9))

CASES = (
    _case("mixed batch", _MIXED, _FLOAT32),
    _case("first token", Shape((1,), (1,)), _FLOAT32),
    _case("no sequences", Shape((), ()), _FLOAT32),
    _case("nothing to compute", Shape((0, 0), (0, 5)), _FLOAT32),
    _case("decode of uneven lengths", _DECODE, _FLOAT32),
    _case("decode of one length", Shape((1, 1, 1), (7, 7, 7)), _FLOAT32),
    _case("decode of one sequence", Shape((1,), (18,)), _FLOAT32),
    _case("prefill chunks", _PREFILL, _FLOAT32),
    _case("chunks at block borders", Shape((3, 4, 5, 4, 4), (3, 4, 5, 8, 9)), _FLOAT32),
    _case("shared blocks", replace(_MIXED, num_shared_blocks=2), _FLOAT32),
    _case("one key head", replace(_MIXED, num_heads=7, num_kv_heads=1), _FLOAT32),
    _case("as many key heads", replace(_MIXED, num_heads=3, num_kv_heads=3), _FLOAT32),
    _case("odd sizes", replace(_MIXED, num_heads=6, head_dim=10, block_size=5), _FLOAT32),
    _case("large heads", replace(_DECODE, head_dim=256, block_size=16), _FLOAT32),
    _case("long context", Shape((1, 1, 40), (700, 90, 333), num_blocks=300), _FLOAT32),
    _case("big block ids", replace(_MIXED, num_blocks=20_000), _FLOAT32),
    _case("sharp scores", replace(_MIXED, scale=300.0), Tolerance(1e-4, 1e-4)),
    _case("bfloat16", replace(_MIXED, dtype=torch.bfloat16), _BFLOAT16),
    _case("bfloat16 prefill", replace(_PREFILL, dtype=torch.bfloat16), _BFLOAT16),
    _case("float16", replace(_MIXED, dtype=torch.float16), _FLOAT16),
)
