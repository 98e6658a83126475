"""The engine on real architectures draws the tokens of Hugging Face transformers, in any case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
from checkpoints import KINDS, VOCAB_SIZE, make_checkpoint
from fake_model import Collected, greedy, run_until_idle, spec_of

import kernels
from baton.blocks import KvLayout, make_namespace
from baton.engine.engine import Engine
from baton.engine.model.weights import LoadedModel, load_model
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, NewToken, SequenceSpec
from baton.request import SamplingParams

BLOCK_SIZE = 16
MAX_NEW = 12
LENGTHS = (1, 15, 16, 17, 31, 32, 33, 50)
SAMPLING = greedy(max_tokens=MAX_NEW, ignore_eos=True, logprobs_count=3)


def prompt(length: int) -> list[int]:
    return [4 + (length * 37 + i * 29 + i * i * 7) % (VOCAB_SIZE - 4) for i in range(length)]


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = make_checkpoint(tmp_path_factory.mktemp(request.param) / "model", request.param)
    return Served(folder, load_model(folder, "cpu", "float32", kernels.load("cpu")))


class Served:
    """A model folder, loaded, and what transformers draws from it."""

    def __init__(self, folder: Path, model: LoadedModel) -> None:
        self._folder = folder
        self._model = model

    def engine(self, **sizes: int) -> Engine:
        config = EngineConfig(**{"num_blocks": 48, "block_size": BLOCK_SIZE, **sizes})
        facts = self._model.config
        layout = KvLayout(
            BLOCK_SIZE,
            facts.num_layers,
            facts.num_kv_heads,
            facts.head_dim,
            "float32",
            make_namespace(self._model.fingerprint),
        )
        arena = TensorArena(layout, config.num_blocks)
        arena.tensor.fill_(float("nan"))  # what nobody wrote must not be read
        return Engine(ModelRunner(self._model, arena), config, arena)

    def assert_greedy(self, collected: Collected, specs: Iterable[SequenceSpec]) -> None:
        for spec in specs:
            (wanted,) = oracle.greedy(self._folder, [list(spec.token_ids)], MAX_NEW)
            assert collected.tokens(spec.sequence_id) == wanted, spec.sequence_id


def specs_of(lengths: Iterable[int] = LENGTHS, **rest: object) -> list[SequenceSpec]:
    return [spec_of(f"s{length}", prompt(length), SAMPLING, **rest) for length in lengths]


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 16, 64])
def test_concurrent_prompts_in_any_chunks(served: Served, max_batch_tokens: int) -> None:
    engine = served.engine(max_batch_tokens=max_batch_tokens)
    specs = specs_of(LENGTHS if max_batch_tokens > 1 else (1, 16, 17))
    for spec in specs:
        engine.add(spec)

    served.assert_greedy(run_until_idle(engine), specs)


def test_prefix_hits(served: Served) -> None:
    engine = served.engine()
    for spec in specs_of():
        engine.add(spec)
    run_until_idle(engine)
    again = [
        spec_of(f"again {length}", prompt(50)[:length], SAMPLING) for length in (16, 17, 33, 50)
    ]
    for spec in again:
        engine.add(spec)

    collected = run_until_idle(engine)

    served.assert_greedy(collected, again)
    cached = [collected.ends()[spec.sequence_id].stats.num_cached_tokens for spec in again]
    assert cached == [0, 16, 32, 48]


def test_preemption(served: Served) -> None:
    engine = served.engine(num_blocks=7)
    specs = specs_of((15, 16, 31, 29))
    for spec in specs:
        engine.add(spec)

    collected = run_until_idle(engine)

    served.assert_greedy(collected, specs)
    assert collected.outputs[-1].load.num_preemptions > 0


def test_samples_that_share_a_prompt(served: Served) -> None:
    engine = served.engine(max_batch_tokens=16)
    sampling = SamplingParams(temperature=1.0, seed=9, max_tokens=MAX_NEW, ignore_eos=True)
    specs = [
        spec_of(f"s{i}", prompt(33), sampling, sample_index=i, after="s0" if i else None)
        for i in range(3)
    ]
    for spec in [*specs, spec_of("greedy", prompt(33), SAMPLING, after="s0")]:
        engine.add(spec)
    collected = run_until_idle(engine)
    alone = {}
    for spec in specs:
        single = served.engine()
        single.add(replace(spec, after=None))
        alone[spec.sequence_id] = run_until_idle(single).tokens(spec.sequence_id)

    served.assert_greedy(collected, [spec_of("greedy", prompt(33), SAMPLING)])
    assert {spec.sequence_id: collected.tokens(spec.sequence_id) for spec in specs} == alone
    assert len({tuple(tokens) for tokens in alone.values()}) == 3


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
    decode.resume(
        spec.sequence_id,
        len(spec.token_ids),
        NewToken(spec.sequence_id, token.token_id, token.logprobs),
    )
    return run_until_idle(decode, collected)


@pytest.mark.parametrize("length", [1, 16, 17, 50])
def test_a_hand_off_changes_no_bit(served: Served, length: int) -> None:
    (spec,) = specs_of((length,))
    whole, prefill, decode = (served.engine(max_batch_tokens=16) for _ in range(3))
    whole.add(spec)
    alone = run_until_idle(whole)
    decode.add(spec_of("other", prompt(40)[7:], SAMPLING))
    run_until_idle(decode)  # so that blocks lie elsewhere

    moved = hand_off(prefill, decode, spec)

    served.assert_greedy(moved, [spec])
    assert moved.news(spec.sequence_id) == alone.news(spec.sequence_id)
    assert prefill.num_used_blocks == decode.num_used_blocks == 0


def test_a_migrated_sequence_goes_on_as_if_nothing_had_happened(served: Served) -> None:
    (spec,) = specs_of((33,))
    first = served.engine()
    first.add(spec)
    tokens = run_until_idle(first).tokens(spec.sequence_id)
    second = served.engine()
    known = (*spec.token_ids, *tokens[:5])
    second.add(replace(spec, token_ids=known))

    assert run_until_idle(second).tokens(spec.sequence_id) == tokens[5:]
