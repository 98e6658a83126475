"""A whole engine on Triton's kernels draws what one on the references draws.

Runs in Triton's interpreter (`tests/kernels/test_interpreter.py`) and on a GPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import VOCAB_SIZE, make_checkpoint
from fake_model import greedy, run_until_idle, spec_of

import kernels
from baton.blocks import KvLayout
from baton.engine.engine import Engine
from baton.engine.model.weights import load_model
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, NewToken
from kernels.launch import is_interpreted

OPS = ("rms_norm", "add_rms_norm", "qk_norm_rope_write", "paged_attention", "silu_mul", "sample")
TRITON = ",".join(f"{op}=cuda" for op in OPS)
LENGTHS = (3, 18)
DEVICES = [
    pytest.param(
        "cpu",
        id="interpreter-cuda",
        marks=pytest.mark.skipif(not is_interpreted(), reason="needs Triton's interpreter"),
    ),
    pytest.param("cuda", id="gpu", marks=pytest.mark.gpu),
]


def draw(folder: Path, device: str, choice: str) -> list[NewToken]:
    model = load_model(folder, device, "float32", kernels.load(device, choice))
    facts = model.config
    shape = (facts.num_layers, facts.num_kv_heads, facts.head_dim)
    layout = KvLayout(16, *shape, "float32", b"n")
    config = EngineConfig(num_blocks=12, block_size=16, max_batch_tokens=16)
    arena = TensorArena(layout, config.num_blocks, device)
    arena.tensor.fill_(float("nan"))  # what nobody wrote must not be read
    engine = Engine(ModelRunner(model, arena), config, arena)
    for length in LENGTHS:
        ids = [4 + i * 29 % (VOCAB_SIZE - 4) for i in range(length)]
        sampling = greedy(max_tokens=3, ignore_eos=True, logprobs_count=2)
        engine.add(spec_of(f"s{length}", ids, sampling))
    collected = run_until_idle(engine)
    return [token for length in LENGTHS for token in collected.news(f"s{length}")]


@pytest.mark.parametrize("device", DEVICES)
def test_triton_draws_what_the_references_draw(tmp_path: Path, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    folder = make_checkpoint(tmp_path / "model", "qwen3")

    drawn, wanted = (draw(folder, device, choice) for choice in (TRITON, "reference"))

    assert [token.token_id for token in drawn] == [token.token_id for token in wanted]
    for got, expected in zip(drawn, wanted, strict=True):
        assert got.logprobs is not None
        assert expected.logprobs is not None
        assert got.logprobs.logprob == pytest.approx(expected.logprobs.logprob, abs=1e-4)
