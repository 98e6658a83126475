"""A whole engine on Triton's kernels draws what one on the references draws: also from static
buffers, with the sampler on the device and steps launched ahead.

Runs in Triton's interpreter (`tests/kernels/test_interpreter.py`) and on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from checkpoints import VOCAB_SIZE, make_checkpoint
from fake_model import greedy, run_until_idle, spec_of

import kernels
from baton.blocks import KvLayout
from baton.engine.decode_graphs import DecodeGraphs
from baton.engine.engine import Engine
from baton.engine.model.weights import load_model
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, NewToken
from baton.request import SamplingParams
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


SAMPLINGS = (
    greedy(max_tokens=3, ignore_eos=True, logprobs_count=2),
    SamplingParams(0.9, top_p=0.8, seed=5, max_tokens=4, ignore_eos=True, logprobs_count=1),
    # Its draws depend on the tokens before them. It ends first, and the others go on without.
    SamplingParams(0.7, seed=6, max_tokens=2, ignore_eos=True, presence_penalty=1.0),
)


@dataclass(frozen=True)
class How:
    """How an engine runs."""

    choice: str = TRITON
    is_static: bool = False
    looks_ahead: bool = False


def draw(folder: Path, device: str, how: How) -> list[NewToken]:
    model = load_model(folder, device, "float32", kernels.load(device, how.choice))
    facts = model.config
    heads = (facts.num_heads, facts.num_kv_heads, facts.head_dim)
    layout = KvLayout(16, facts.num_layers, *heads[1:], "float32", b"n")
    config = EngineConfig(
        num_blocks=12,
        max_batch_tokens=16,
        max_sequences=3,
        context_len=64,
        looks_ahead=how.looks_ahead,
    )
    arena = TensorArena(layout, config.num_blocks, device)
    arena.with_spare.fill_(float("nan"))  # what nobody wrote must not be read
    ops, limits = model.ops, (config.max_sequences, config.context_len)
    graphs = DecodeGraphs(
        model.transformer,
        arena,
        limits,
        lambda num: ops.static_attention_plan(num, heads, torch.float32, device),
        ops.device_sample,
    )
    if how.is_static and device == "cuda":
        graphs.prepare()
    engine = Engine(ModelRunner(model, arena, graphs if how.is_static else None), config, arena)
    for index, sampling in enumerate(SAMPLINGS):
        ids = [4 + i * 29 % (VOCAB_SIZE - 4) for i in range(LENGTHS[index % 2])]
        engine.add(spec_of(f"s{index}", ids, sampling))
    collected = run_until_idle(engine)
    return [token for index in range(len(SAMPLINGS)) for token in collected.news(f"s{index}")]


def assert_alike(drawn: list[NewToken], wanted: list[NewToken]) -> None:
    assert [token.token_id for token in drawn] == [token.token_id for token in wanted]
    for got, expected in zip(drawn, wanted, strict=True):
        if expected.logprobs is None:
            assert got.logprobs is None
            continue
        assert got.logprobs is not None
        assert got.logprobs.logprob == pytest.approx(expected.logprobs.logprob, abs=1e-4)
        assert len(got.logprobs.top) == len(expected.logprobs.top)


@pytest.mark.timeout(500)  # the interpreter takes a minute, more beside others
@pytest.mark.parametrize("device", DEVICES)
def test_triton_draws_what_the_references_draw(tmp_path: Path, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    folder = make_checkpoint(tmp_path / "model", "qwen3")
    wanted = draw(folder, device, How("reference"))

    # Prompts take no static buffers, so those are tried without them as well.
    assert_alike(draw(folder, device, How(TRITON, is_static=True, looks_ahead=True)), wanted)
    if device == "cuda":
        assert_alike(draw(folder, device, How(TRITON)), wanted)
