"""Cases of mla_decode. Unused slots hold NaN, tables are padded with ids of no block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from kernels.case import Arguments, Case, Tolerance, normal
from kernels.paged_attention import AttentionBatch

_NO_BLOCK = 2**31 - 1
_NUM_LAYERS = 2


@dataclass(frozen=True)
class Shape:
    """Sequences and sizes of a case."""

    context_lens: tuple[int, ...]
    query_lens: tuple[int, ...] = ()
    """Empty for one token of each."""
    num_heads: int = 3
    latent_dim: int = 32
    rotated_dim: int = 16
    block_size: int = 4
    num_blocks: int = 40
    dtype: torch.dtype = torch.float32
    scale: float = 1.0
    """Of the queries."""
    num_shared_blocks: int = 0
    """Blocks that all sequences begin with."""


def make(device: str, shape: Shape) -> Arguments:
    """Arguments of the op."""
    size = shape.latent_dim + shape.rotated_dim
    arena = torch.full((shape.num_blocks, _NUM_LAYERS, shape.block_size, size), float("nan"))
    free = torch.randperm(shape.num_blocks, generator=torch.Generator().manual_seed(5)).tolist()
    shared = [free.pop() for _ in range(shape.num_shared_blocks)]
    width = max((-(-context // shape.block_size) for context in shape.context_lens), default=0)
    tables = torch.full((len(shape.context_lens), width + 1), _NO_BLOCK, dtype=torch.int32)
    for index, context_len in enumerate(shape.context_lens):
        num_blocks = -(-context_len // shape.block_size)
        blocks = (shared + [free.pop() for _ in range(num_blocks)])[:num_blocks]
        tables[index, :num_blocks] = torch.tensor(blocks, dtype=torch.int32)
        for position in range(context_len):
            block, slot = blocks[position // shape.block_size], position % shape.block_size
            is_shared = position // shape.block_size < shape.num_shared_blocks
            seed = position if is_shared else 1_000 * (index + 1) + position
            arena[block, 1, slot] = normal((size,), seed=seed)
    query_lens = shape.query_lens or (1,) * len(shape.context_lens)
    q = normal((sum(query_lens), shape.num_heads, size), seed=1) * shape.scale
    batch = AttentionBatch(
        block_tables=tables.to(device),
        query_start=torch.tensor((0, *query_lens)).cumsum(0).int().to(device),
        context_lens=torch.tensor(shape.context_lens, dtype=torch.int32, device=device),
        query_lens=query_lens,
        host_context_lens=shape.context_lens,
    )
    kv = arena.to(shape.dtype).to(device)[:, 1]
    return q.to(shape.dtype).to(device), kv, batch, size**-0.5, shape.latent_dim


# Sums of some hundred terms in another order, float32; half types round weights, values and result
# to 2**-9 (bfloat16) or 2**-12 (float16).
_FLOAT32 = Tolerance(2e-6, 1e-5)
_BFLOAT16 = Tolerance(2e-2, 2.0**-6)
_FLOAT16 = Tolerance(3e-3, 2.0**-9)


def _case(name: str, shape: Shape, tolerance: Tolerance = _FLOAT32) -> Case:
    return Case(name, partial(make, shape=shape), tolerance)


_MIXED = Shape((1, 3, 4, 5, 33))

# The first runs at every start: in bfloat16, since Triton compiles float32 products slowly.
CASES = (
    _case("bfloat16", replace(_MIXED, dtype=torch.bfloat16), _BFLOAT16),
    _case("uneven lengths", _MIXED),
    _case("first token", Shape((1,))),
    _case("no sequences", Shape(())),
    _case("chunks of a few, and of none", Shape((7, 5, 0, 3), (2, 0, 0, 3))),
    _case("at the borders of tiles", Shape((31, 32, 33, 64, 65), num_blocks=80)),
    _case("several splits", Shape((260, 3, 129, 257), num_blocks=200)),
    _case("one head", Shape((2,), num_heads=1)),
    _case("more heads than a tile", Shape((6, 9), num_heads=70)),
    _case("shared blocks", replace(_MIXED, num_shared_blocks=1)),
    _case("odd sizes", replace(_MIXED, rotated_dim=6, block_size=5, latent_dim=16)),
    _case("sharp scores", replace(_MIXED, scale=200.0), Tolerance(1e-4, 1e-4)),
    _case("as DeepSeek-V3", Shape((40, 9), latent_dim=512, rotated_dim=64, num_heads=16)),
    _case("float16", replace(_MIXED, dtype=torch.float16), _FLOAT16),
)
