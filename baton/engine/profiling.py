"""What a forward pass needs beside weights and blocks, found by running the largest one."""

from __future__ import annotations

import torch

from baton.blocks import KvLayout
from baton.engine.decode_graphs import ForwardLike
from baton.engine.model.batch import Batch
from baton.engine.tensor_arena import TensorArena


def largest_batch(
    layout: KvLayout, num_tokens: int, num_sequences: int, device: str | torch.device
) -> Batch:
    """A prompt of `num_tokens` tokens in the first blocks, drawing as many rows as a step may."""
    positions = torch.arange(num_tokens, device=device)
    table = torch.arange(layout.num_blocks(num_tokens), dtype=torch.int32, device=device)
    lens = torch.tensor([0, num_tokens], dtype=torch.int32, device=device)
    return Batch(
        token_ids=torch.zeros_like(positions),
        positions=positions,
        slot_blocks=positions // layout.block_size,
        slot_offsets=positions % layout.block_size,
        block_tables=table[None],
        query_start=lens,
        context_lens=lens[1:],
        sample_rows=torch.arange(num_sequences, device=device) % num_tokens,
        query_lens=(num_tokens,),
        host_context_lens=(num_tokens,),
    )


def activation_bytes(
    transformer: ForwardLike, layout: KvLayout, num_tokens: int, num_sequences: int, device: str
) -> int:
    """Peak bytes of a GPU's memory that the largest step takes beside weights and blocks."""
    arena = TensorArena(layout, layout.num_blocks(num_tokens), device)
    batch = largest_batch(layout, num_tokens, num_sequences, device)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    transformer.forward(batch, arena.tensor)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del arena
    torch.cuda.empty_cache()  # so that what was measured counts as free
    return peak
