"""Split equals single, bit for bit: tokens and log-probabilities, greedy and seeded, any chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from checkpoints import VOCAB_SIZE, make_checkpoint
from fake_model import Collected, greedy, run_until_idle, spec_of

import kernels
from baton.blocks import KvLayout, make_namespace
from baton.engine.engine import Engine
from baton.engine.model.weights import load_model
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, NewToken, SequenceSpec
from baton.request import SamplingParams
from kernels import native

MAX_NEW = 4
SAMPLINGS = {
    "greedy": greedy(max_tokens=MAX_NEW, ignore_eos=True, logprobs_count=3),
    "seeded": SamplingParams(
        max_tokens=MAX_NEW,
        ignore_eos=True,
        logprobs_count=3,
        temperature=1.3,
        top_p=0.95,
        seed=11,
        frequency_penalty=0.5,
    ),
}
MakeEngine = Callable[..., Engine]


def prompt(length: int, seed: int = 0) -> list[int]:
    return [4 + (seed * 101 + i * 29 + i * i * 7) % (VOCAB_SIZE - 4) for i in range(length)]


@pytest.fixture(scope="module", params=["native", "reference", "cpu"])
def make_engine(request: pytest.FixtureRequest, tmp_path_factory: Any) -> MakeEngine:
    if request.param == "native" and not native.is_available():
        pytest.skip("needs a C++ compiler")
    choice = {"native": "", "cpu": "paged_attention=cpu"}.get(request.param, request.param)
    folder = make_checkpoint(tmp_path_factory.mktemp("model") / "model", "qwen3")
    model = load_model(
        folder,
        "cpu",
        "float32",
        kernels.load("cpu", choice),
        # Native kernels give no other bits anyway.
        is_invariant=request.param != "native",
    )
    facts = model.config
    shape = (facts.num_layers, facts.num_kv_heads, facts.head_dim)
    layout = KvLayout(16, *shape, "float32", make_namespace(model.fingerprint))

    def make(**sizes: int) -> Engine:
        config = EngineConfig(num_blocks=64, block_size=16, **sizes)
        arena = TensorArena(layout, config.num_blocks)
        return Engine(ModelRunner(model, arena), config, arena)

    return make


def add_neighbours(engine: Engine) -> None:
    for index, length in enumerate((3, 18)):
        engine.add(
            spec_of(f"neighbour{index}", prompt(length, seed=index + 1), SAMPLINGS["greedy"])
        )


def hand_off(prefill: Engine, decode: Engine, spec: SequenceSpec) -> Collected:
    """Computes the prompt in one engine, moves its blocks, and draws the rest in the other."""
    prefill.add(replace(spec, prefill_only=True))
    done = run_until_idle(prefill)
    collected = Collected()
    decode.add(replace(spec, receive=True))
    (reserved,) = collected.take(decode.step()).reserved
    pushed = done.outputs[-1].progress[-1].block_ids
    for source, target in zip(pushed, reserved.block_ids, strict=True):
        decode.arena.write(target, prefill.arena.read(source))
    prefill.release(spec.sequence_id)
    (token,) = done.news(spec.sequence_id)
    known = NewToken(spec.sequence_id, token.token_id, token.logprobs)
    decode.resume(spec.sequence_id, len(spec.token_ids), known)
    add_neighbours(decode)
    return run_until_idle(decode, collected)


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 33])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_chunks_and_neighbours_change_no_bit(
    make_engine: MakeEngine, sampling: str, max_batch_tokens: int
) -> None:
    spec = spec_of("s", prompt(40), SAMPLINGS[sampling])
    alone = make_engine(max_batch_tokens=64)
    alone.add(spec)
    expected = run_until_idle(alone).news("s")
    crowded = make_engine(max_batch_tokens=max_batch_tokens)
    if max_batch_tokens > 1:
        add_neighbours(crowded)
    crowded.add(spec)

    assert run_until_idle(crowded).news("s") == expected
    assert len(expected) == MAX_NEW


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_prompt_computed_elsewhere_changes_no_bit(make_engine: MakeEngine, sampling: str) -> None:
    spec = spec_of("s", prompt(40), SAMPLINGS[sampling])
    alone = make_engine(max_batch_tokens=64)
    alone.add(spec)
    expected = run_until_idle(alone).news("s")

    moved = hand_off(make_engine(max_batch_tokens=9), make_engine(max_batch_tokens=64), spec)

    assert moved.news("s") == expected
