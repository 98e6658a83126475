"""Other projects' kernels on the same problem, where they can be imported. CUDA only."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from bench.kernels.job import Call
from kernels.paged_attention import AttentionBatch

_WORKSPACE_BYTES = 256 * 2**20
PEERS = {"FlashInfer": "flashinfer", "FA3": "vllm.vllm_flash_attn"}
"""Columns, and what must be importable for each."""


def found() -> dict[str, Any]:
    """The peers that there are."""
    modules = {}
    for name, module in PEERS.items():
        try:
            modules[name] = import_module(module)
        except ImportError:
            continue
    return modules


def attention(q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float) -> dict[str, Call]:
    """Attention of batches whose sequences have equal lengths; each peer in the layout it likes."""
    makers = {"FlashInfer": _flashinfer, "FA3": _fa3}
    return {name: makers[name](module, q, kv, batch, scale) for name, module in found().items()}


def _flashinfer(module: Any, q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float) -> Call:
    blocks, device = kv.contiguous(), q.device
    workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    num_sequences, per_sequence = batch.block_tables.shape
    block_size = kv.shape[3]
    starts = torch.arange(num_sequences + 1, device=device).int() * per_sequence
    last = (batch.context_lens - 1) % block_size + 1
    pages = (starts, batch.block_tables.flatten(), last)
    sizes = (q.shape[1], kv.shape[2], kv.shape[4], block_size)
    types = {"q_data_type": q.dtype, "kv_data_type": kv.dtype, "sm_scale": scale}
    if max(batch.query_lens) == 1:
        wrapper = module.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND", use_tensor_cores=True)
        wrapper.plan(*pages, *sizes, **types)
    else:
        wrapper = module.BatchPrefillWithPagedKVCacheWrapper(workspace, "HND")
        wrapper.plan(batch.query_start, *pages, *sizes, causal=True, **types)
    return lambda: wrapper.run(q, blocks)


def _fa3(module: Any, q: Tensor, kv: Tensor, batch: AttentionBatch, scale: float) -> Call:
    keys, values = kv.transpose(2, 3).contiguous().unbind(1)
    longest = max(batch.host_context_lens)
    return lambda: module.flash_attn_varlen_func(
        q,
        keys,
        values,
        max_seqlen_q=max(batch.query_lens),
        cu_seqlens_q=batch.query_start,
        max_seqlen_k=longest,
        seqused_k=batch.context_lens,
        block_table=batch.block_tables,
        softmax_scale=scale,
        causal=True,
        fa_version=3,
    )
