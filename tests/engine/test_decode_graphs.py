"""Decode steps in static buffers, launched ahead, draw what steps of any shape draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import VOCAB_SIZE, make_checkpoint
from fake_model import greedy, run_until_idle, spec_of
from hypothesis import given
from hypothesis import strategies as st

import kernels
from baton.blocks import KvLayout, make_namespace
from baton.engine.buckets import bucket_of, bucket_sizes
from baton.engine.decode_graphs import DecodeGraphs
from baton.engine.engine import Engine
from baton.engine.model.weights import LoadedModel, load_model
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig

LENGTHS = (3, 16, 17, 40, 9)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@given(st.integers(1, 500))
def test_buckets_hold_all_sizes_and_waste_little(most: int) -> None:
    sizes = bucket_sizes(most)

    assert list(sizes) == sorted(set(sizes))
    assert bucket_of(most + 1, sizes) is None
    for num in range(1, most + 1):
        size = bucket_of(num, sizes)
        assert size is not None
        assert num <= size <= min(most, max(2 * num, 8))
        assert num < 8 or size <= num * 1.5


def engine_of(model: LoadedModel, device: str, *, has_graphs: bool) -> Engine:
    facts = model.config
    config = EngineConfig(
        num_blocks=40,
        max_sequences=8,
        max_batch_tokens=64,
        context_len=96,
        looks_ahead=has_graphs,
    )
    heads = (facts.num_heads, facts.num_kv_heads, facts.head_dim)
    shape = (facts.num_layers, *heads[1:])
    layout = KvLayout(16, *shape, "float32", make_namespace(model.fingerprint))
    arena = TensorArena(layout, config.num_blocks, device)
    arena.with_spare.fill_(float("nan"))  # what nobody wrote must not be read
    graphs = DecodeGraphs(
        model.transformer,
        arena,
        (config.max_sequences, config.context_len),
        lambda num: model.ops.static_attention_plan(num, heads, torch.float32, device),
        model.ops.device_sample,
    )
    if has_graphs:
        graphs.prepare()
    return Engine(ModelRunner(model, arena, graphs if has_graphs else None), config, arena)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("choice", ["", "reference"])
def test_static_buffers_change_no_token(tmp_path: Path, device: str, choice: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    folder = make_checkpoint(tmp_path / "model", "qwen3")
    model = load_model(folder, device, "float32", kernels.load(device, choice))
    tokens: list[dict[str, list[int]]] = []

    for has_graphs in (False, True):
        engine = engine_of(model, device, has_graphs=has_graphs)
        for length in LENGTHS:
            ids = [4 + (length * 37 + i * 29) % (VOCAB_SIZE - 4) for i in range(length)]
            # They end one by one, so that steps shrink from bucket to bucket.
            sampling = greedy(max_tokens=4 + length % 5, ignore_eos=True)
            engine.add(spec_of(f"s{length}", ids, sampling))
        collected = run_until_idle(engine)
        tokens.append({f"s{length}": collected.tokens(f"s{length}") for length in LENGTHS})

    assert tokens[0] == tokens[1]
    assert all(len(drawn) >= 4 for drawn in tokens[0].values())


def test_an_arena_in_memory_from_outside_has_no_spare_block() -> None:
    layout = KvLayout(16, 1, 1, 8, "float32", b"n")
    arena = TensorArena(layout, 2, buffer=memoryview(bytearray(2 * layout.block_bytes)))

    with pytest.raises(ValueError, match="no spare block"):
        _ = arena.with_spare
