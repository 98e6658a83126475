"""The largest step, which sizes the arena on a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import VOCAB_SIZE, make_checkpoint

import kernels
from baton.blocks import KvLayout
from baton.engine.model.weights import LoadedModel, load_model
from baton.engine.profiling import activation_bytes, largest_batch
from baton.engine.tensor_arena import TensorArena


def load(folder: Path, device: str) -> tuple[LoadedModel, KvLayout]:
    model = load_model(make_checkpoint(folder, "qwen3"), device, "float32", kernels.load(device))
    facts = model.config
    shape = (facts.num_layers, facts.num_kv_heads, facts.head_dim)
    return model, KvLayout(16, *shape, "float32", b"n")


def test_the_largest_step_is_one_that_a_model_can_run(tmp_path: Path) -> None:
    model, layout = load(tmp_path / "model", "cpu")
    arena = TensorArena(layout, 3)

    logits = model.transformer.forward(largest_batch(layout, 40, 7, "cpu"), arena.tensor)

    assert logits.shape == (7, VOCAB_SIZE)
    assert not logits.isnan().any()


@pytest.mark.gpu
def test_a_larger_step_needs_more_memory(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    model, layout = load(tmp_path / "model", "cuda")

    few, many = (activation_bytes(model.transformer, layout, n, 4, "cuda") for n in (64, 1024))

    assert 0 < few < many
