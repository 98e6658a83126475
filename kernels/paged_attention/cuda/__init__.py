"""Paged attention on NVIDIA GPUs, in Triton: one kernel for decode and prefill, one that merges."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kernels.paged_attention import PLAIN, AttentionBatch, Variant
from kernels.paged_attention.cuda.attend import attend, merge
from kernels.paged_attention.cuda.config import PARTS_AT_ONCE, Config, configs, fixed_config, padded
from kernels.paged_attention.cuda.launches import launches
from kernels.paged_attention.plan import (
    ITEM_FIELDS,
    MERGE_FIELDS,
    Chunks,
    Heads,
    WorkList,
    max_counts,
    plan,
    tokens_per_tile,
)

LAUNCHES = launches()


@dataclass(frozen=True, slots=True)
class Work:
    """A work list on the device, with room for the parts that are to be merged."""

    config: Config
    items: Tensor
    """[num_items, 8] int32."""
    merges: Tensor
    """[num_merges, 4] int32."""
    parts: Tensor
    """[num_slots, num_kv_heads, num_rows, head_dim] float32."""
    norms: Tensor
    """[num_slots, num_kv_heads, num_rows] float32."""
    num_merged_rows: int
    """Rows of a tile that a merge may have to do with: those of its tokens."""


def run(
    q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float, variant: Variant = PLAIN
) -> Tensor:
    """See the contract."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    key = ("cuda", variant.window)
    works = batch.plans.get(key)
    if works is None:
        works = batch.plans[key] = _plan(q, kv, batch, variant.window)
    assert isinstance(works, tuple)
    for work in works:
        _launch(work, q, kv, batch, scale, variant, out)
    return out


def _plan(q: Tensor, kv: Tensor, batch: AttentionBatch, window: int | None) -> tuple[Work, ...]:
    heads = Heads(q.shape[1], kv.shape[2], window)
    sizes = (heads.group, q.shape[2], q.element_size())
    chunks = Chunks.of(batch.query_lens, batch.host_context_lens)
    if batch.piece_len is not None:
        parts = [(fixed_config(*sizes), chunks)]
    else:
        narrow, wide = configs(*sizes, q.device)
        is_narrow = chunks.query_len <= tokens_per_tile(narrow.tile, heads)
        parts = [(narrow, chunks.where(is_narrow)), (wide, chunks.where(~is_narrow))]
    lists = [(config, plan(mine, heads, config.tile, batch.piece_len)) for config, mine in parts]
    return tuple(_to_device(config, work, q, heads) for config, work in lists if len(work.items))


def _to_device(config: Config, work: WorkList, q: Tensor, heads: Heads) -> Work:
    # One copy for both lists; from pinned memory it does not wait for the device.
    packed = torch.from_numpy(np.concatenate([work.items.ravel(), work.merges.ravel()]))
    if q.device.type == "cuda":
        packed = packed.pin_memory().to(q.device, non_blocking=True)
    size = work.items.size
    shape = (work.num_slots, heads.num_kv_heads, config.tile.num_rows)
    return Work(
        config=config,
        items=packed[:size].view(work.items.shape),
        merges=packed[size:].view(work.merges.shape),
        parts=torch.empty((*shape, q.shape[2]), dtype=torch.float32, device=q.device),
        norms=torch.empty(shape, dtype=torch.float32, device=q.device),
        num_merged_rows=int(work.merges[:, 1].max(initial=0)) * heads.group,
    )


def _launch(
    work: Work,
    q: Tensor,
    kv: Tensor,
    batch: AttentionBatch,
    scale: float,
    variant: Variant,
    out: Tensor,
) -> None:
    num_kv_heads, block_size, head_dim = kv.shape[2:]
    group = q.shape[1] // num_kv_heads
    tile = work.config.tile
    sinks = variant.sinks
    shared = {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": padded(head_dim),
        "ROWS": tile.num_rows,
        "HAS_SINKS": sinks is not None,
    }
    attend[(num_kv_heads, len(work.items))](
        q, kv, batch.block_tables, work.items, out, work.parts, work.norms, sinks,
        scale, variant.soft_cap or 0.0, q.stride(0), q.stride(1),
        kv.stride(0), kv.stride(1), kv.stride(2), kv.stride(3), batch.block_tables.stride(0),
        KEYS=tile.num_keys, BLOCK_SIZE=block_size, WINDOW=variant.window or 0,
        HAS_CAP=variant.soft_cap is not None,
        num_warps=work.config.num_warps, num_stages=work.config.num_stages, **shared,
    )  # fmt: skip
    if len(work.merges):
        merge[(work.num_merged_rows, num_kv_heads, len(work.merges))](
            work.parts, work.norms, work.merges, sinks, out,
            PARTS=1 if batch.piece_len else PARTS_AT_ONCE, num_warps=4, **shared,
        )  # fmt: skip


class StaticPlan:
    """Plans of steps of single tokens in tensors that stay where they are, as a CUDA graph needs.

    Grids are those of the largest plan; programs beyond the current one end at once.
    """

    def __init__(
        self, num_sequences: int, heads: Heads, head_dim: int, dtype: torch.dtype, device: str
    ) -> None:
        place = torch.device(device)
        self._heads = heads
        self._config, _ = configs(heads.group, head_dim, dtype.itemsize, place)
        most_items, most_slots = max_counts(num_sequences, heads, self._config.tile)
        self._sizes = (most_items * len(ITEM_FIELDS), num_sequences * len(MERGE_FIELDS))
        self._numbers = torch.zeros(sum(self._sizes), dtype=torch.int32, device=place)
        items, merges = self._numbers.split(self._sizes)
        shape = (most_slots, heads.num_kv_heads, self._config.tile.num_rows)
        work = Work(
            config=self._config,
            items=items.view(most_items, len(ITEM_FIELDS)),
            merges=merges.view(num_sequences, len(MERGE_FIELDS)),
            parts=torch.empty((*shape, head_dim), dtype=torch.float32, device=place),
            norms=torch.empty(shape, dtype=torch.float32, device=place),
            num_merged_rows=heads.group,
        )
        self.plans: dict[Hashable, object] = {("cuda", heads.window): (work,)}
        """For `AttentionBatch.plans`."""

    def update(self, context_lens: tuple[int, ...]) -> None:
        """Plans a step: one token each for as many sequences as there is room for, or fewer."""
        chunks = Chunks.of((1,) * len(context_lens), context_lens)
        work = plan(chunks, self._heads, self._config.tile)
        numbers = np.zeros(sum(self._sizes), dtype=np.int32)
        numbers[: work.items.size] = work.items.ravel()
        numbers[self._sizes[0] :][: work.merges.size] = work.merges.ravel()
        source = torch.from_numpy(numbers)
        if self._numbers.is_cuda:
            source = source.pin_memory()
        self._numbers.copy_(source, non_blocking=True)
