"""Attention over compressed keys and values is attention with one head of keys that are values."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

from kernels.mla_decode.cases import CASES
from kernels.paged_attention import AttentionBatch
from kernels.paged_attention.reference import run as paged_attention


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_agrees_with_paged_attention(case: Any) -> None:
    q, kv, batch, scale, latent_dim = case.make("cpu")

    got = import_module("kernels.mla_decode.reference").run(q, kv, batch, scale, latent_dim)

    both = kv[:, None, None].expand(-1, 2, 1, -1, -1)
    wanted = paged_attention(q, both, batch, scale)[..., :latent_dim]
    tolerance = case.tolerance
    torch.testing.assert_close(got, wanted, atol=tolerance.atol, rtol=tolerance.rtol)


def test_absorbed_weights_give_what_whole_keys_and_values_give() -> None:
    # One sequence, by the textbook: expand each token's vector into keys and values of all heads.
    num_heads, latent, rotated, width, context_len = 3, 16, 8, 12, 9
    generator = torch.Generator().manual_seed(1)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    vectors = numbers(context_len, latent + rotated)
    to_keys, to_values = numbers(num_heads, width, latent), numbers(num_heads, width, latent)
    plain, turned = numbers(num_heads, width), numbers(num_heads, rotated)
    keys = torch.einsum("hwl,tl->thw", to_keys, vectors[:, :latent])
    scores = torch.einsum("hw,thw->ht", plain, keys) + turned @ vectors[:, latent:].T
    weights = (scores * 0.2).softmax(-1)
    values = torch.einsum("hwl,tl->thw", to_values, vectors[:, :latent])
    wanted = torch.einsum("ht,thw->hw", weights, values)

    batch = AttentionBatch(
        block_tables=torch.tensor([[1, 0]], dtype=torch.int32),
        query_start=torch.tensor([0, 1], dtype=torch.int32),
        context_lens=torch.tensor([context_len], dtype=torch.int32),
        query_lens=(1,),
        host_context_lens=(context_len,),
    )
    kv = torch.full((2, 5, latent + rotated), float("nan"))
    kv[1], kv[0, :4] = vectors[:5], vectors[5:]
    absorbed = torch.einsum("hw,hwl->hl", plain, to_keys)
    q = torch.cat((absorbed, turned), -1)[None]
    said = import_module("kernels.mla_decode.reference").run(q, kv, batch, 0.2, latent)

    torch.testing.assert_close(torch.einsum("hwl,hl->hw", to_values, said[0]), wanted)
