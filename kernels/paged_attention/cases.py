"""Cases of paged_attention. Unused slots hold NaN, tables are padded with ids of no block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kernels.case import Arguments, Case, Tolerance, normal
from kernels.paged_attention import PLAIN, AttentionBatch, Variant

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
    window: int | None = None
    soft_cap: float | None = None
    has_sinks: bool = False
    is_token_major: bool = False
    """Whether all heads of a token lie side by side in a block, and q inside a wider tensor."""
    piece_len: int | None = None
    """See `AttentionBatch.piece_len`."""
    block_stride: int | None = None
    """Elements between blocks, if not as many as they hold."""


def make(device: str, shape: Shape) -> Arguments:
    """Arguments of a shape: equal for all values of `block_seed` but for the blocks' places."""
    tables = _tables(shape)
    kv = _arena(device, shape)
    for index, context_len in enumerate(shape.context_lens):
        _fill(kv, tables[index], _context(shape, index, context_len).to(device))
    num_tokens = sum(shape.query_lens)
    q = normal((num_tokens, shape.num_heads, shape.head_dim), seed=1, dtype=shape.dtype)
    if shape.is_token_major:
        q = torch.cat((q, q.flip(1)), dim=1)[:, : shape.num_heads]
    starts = torch.tensor((0, *shape.query_lens)).cumsum(0)
    batch = AttentionBatch(
        block_tables=tables.to(device),
        query_start=starts.int().to(device),
        context_lens=torch.tensor(shape.context_lens, dtype=torch.int32, device=device),
        query_lens=shape.query_lens,
        host_context_lens=shape.context_lens,
        piece_len=shape.piece_len,
    )
    scale = shape.head_dim**-0.5
    return q.mul_(shape.scale).to(device), kv, batch, scale, _variant(device, shape)


def _variant(device: str, shape: Shape) -> Variant:
    if shape.window is None and shape.soft_cap is None and not shape.has_sinks:
        return PLAIN
    sinks = normal((shape.num_heads,), seed=3).to(device) if shape.has_sinks else None
    return Variant(shape.window, shape.soft_cap, sinks)


def _arena(device: str, shape: Shape) -> Tensor:
    """The middle one of three layers, full of NaN but for a huge one."""
    sizes = (2, shape.num_kv_heads, shape.block_size, shape.head_dim)
    if shape.block_stride is not None:
        # A huge arena is address space that nobody touches; torch's own would be filled.
        size = shape.num_blocks * shape.block_stride
        assert shape.dtype == torch.float16
        if device == "cpu":
            whole = torch.from_numpy(np.empty(size, dtype=np.float16))
        else:
            whole = torch.empty(size, dtype=torch.float16, device=device)
        strides = (shape.block_stride, *torch.empty(sizes, device="meta").stride())
        return whole.as_strided((shape.num_blocks, *sizes), strides)
    if shape.is_token_major:
        sizes = (2, shape.block_size, shape.num_kv_heads, shape.head_dim)
    whole = torch.full(
        (shape.num_blocks, _NUM_LAYERS, *sizes), float("nan"), dtype=shape.dtype, device=device
    )
    return whole[:, 1].transpose(2, 3) if shape.is_token_major else whole[:, 1]


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
# Around the tiles of 64 and 128 keys that kernels read at once.
_TILES = Shape((1,) * 6, (63, 64, 65, 127, 128, 129), block_size=16)
_CHUNKS = Shape((3, 70, 33, 2), (63, 70, 161, 130), block_size=16)
# Around the pieces of some hundred keys into which kernels split a context.
_PIECES = Shape((1, 2, 1, 1, 3), (255, 256, 257, 511, 515), block_size=16, num_blocks=128)
# Blocks 12 and up begin behind 2**31 elements, 6 and up behind 2**31 bytes.
_HUGE = replace(_MIXED, num_blocks=16, block_size=16, block_stride=180_000_000, dtype=torch.float16)
_HARD = replace(_CHUNKS, window=37, soft_cap=5.0, has_sinks=True)
_HARD_FIXED = replace(_HARD, query_lens=(3, 6), context_lens=(64, 70), piece_len=64)

CASES = (
    _case("mixed batch", _MIXED, _FLOAT32),
    _case("first token", Shape((1,), (1,)), _FLOAT32),
    _case("no sequences", Shape((), ()), _FLOAT32),
    _case("nothing to compute", Shape((0, 0), (0, 5)), _FLOAT32),
    _case("decode of uneven lengths", _DECODE, _FLOAT32),
    _case("decode of one length", Shape((1, 1, 1), (7, 7, 7)), _FLOAT32),
    _case("decode of one sequence", Shape((1,), (18,)), _FLOAT32),
    _case("decode around tiles", _TILES, _FLOAT32),
    _case("decode around pieces", _PIECES, _FLOAT32),
    _case("prefill chunks", _PREFILL, _FLOAT32),
    _case("prefill around tiles", _CHUNKS, _FLOAT32),
    _case("chunks at block borders", Shape((3, 4, 5, 4, 4), (3, 4, 5, 8, 9)), _FLOAT32),
    _case("shared blocks", replace(_MIXED, num_shared_blocks=2), _FLOAT32),
    _case("one key head", replace(_MIXED, num_heads=7, num_kv_heads=1), _FLOAT32),
    _case("as many key heads", replace(_MIXED, num_heads=3, num_kv_heads=3), _FLOAT32),
    _case("odd sizes", replace(_MIXED, num_heads=6, head_dim=10, block_size=5), _FLOAT32),
    _case("odd sizes around tiles", replace(_CHUNKS, head_dim=40, block_size=24), _FLOAT32),
    _case("blocks as large as tiles", replace(_CHUNKS, block_size=64), _FLOAT32),
    _case("blocks larger than tiles", replace(_PIECES, block_size=128), _FLOAT32),
    _case("large heads", replace(_DECODE, head_dim=256, block_size=16), _FLOAT32),
    replace(
        _case("long context", Shape((1, 1, 40), (700, 90, 333), num_blocks=300), _FLOAT32),
        is_large=True,
    ),
    _case("big block ids", replace(_MIXED, num_blocks=20_000), _FLOAT32),
    _case("offsets beyond 32 bits", _HUGE, _FLOAT16),
    _case("heads of a token side by side", replace(_CHUNKS, is_token_major=True), _FLOAT32),
    _case("sharp scores", replace(_MIXED, scale=300.0), Tolerance(1e-4, 1e-4)),
    _case("window of one token", replace(_MIXED, window=1), _FLOAT32),
    _case("window in decode", replace(_TILES, window=64), _FLOAT32),
    _case("window in prefill", replace(_CHUNKS, window=65), _FLOAT32),
    _case("window longer than any context", replace(_MIXED, window=1000), _FLOAT32),
    _case("long window", replace(_PIECES, window=300), _FLOAT32),
    _case("soft cap", replace(_MIXED, soft_cap=5.0, scale=9.0), Tolerance(1e-5, 1e-5)),
    _case("sinks", replace(_MIXED, has_sinks=True), _FLOAT32),
    _case("sinks and pieces", replace(_PIECES, has_sinks=True), _FLOAT32),
    _case("window, cap and sinks", _HARD, Tolerance(1e-5, 1e-5)),
    _case("fixed pieces", Shape((1, 2), (129, 65), piece_len=64, num_blocks=99), _FLOAT32),
    _case("fixed pieces, all at once", _HARD_FIXED, Tolerance(1e-5, 1e-5)),
    _case("bfloat16", replace(_MIXED, dtype=torch.bfloat16), _BFLOAT16),
    _case("bfloat16 prefill", replace(_CHUNKS, dtype=torch.bfloat16, head_dim=64), _BFLOAT16),
    _case("bfloat16 pieces", replace(_PIECES, dtype=torch.bfloat16, head_dim=128), _BFLOAT16),
    _case("float16", replace(_CHUNKS, dtype=torch.float16), _FLOAT16),
    _case("float16, all at once", replace(_HARD, dtype=torch.float16), _FLOAT16),
)
