"""A model whose next token depends on every key and value that it reads back from the arena.

Each token's value is a hash of the token and of the value *read from the slot before it*; the
logits are a hash of everything the block table leads to. A wrong block, slot, order, or stale
content changes the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baton.blocks import KvLayout, make_namespace
from baton.engine.engine import Engine
from baton.engine.model.batch import Batch
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, Finished, NewToken, SequenceSpec, StepOutput
from baton.request import FinishReason, SamplingParams
from kernels.sample import DeviceSample, Sample, SampleRows
from kernels.sample.reference import run as sample_reference

VOCAB_SIZE = 64
EOS_ID = 1
_LIMIT = 1 << 20  # float32 holds integers below 2**24 exactly
_WEIGHTS = np.random.default_rng(7).integers(1, 1 << 62, size=(3, 1 << 14), dtype=np.uint64)
_SPREAD = np.random.default_rng(8).integers(1, 1 << 62, size=VOCAB_SIZE, dtype=np.uint64) | 1


def chain(value: int, token_id: int, position: int) -> int:
    """A token's value: depends on the value before it."""
    return (value * 31 + token_id * 7919 + position * 104729 + 17) % _LIMIT


def logits_of(tokens: NDArray, positions: NDArray, values: NDArray) -> NDArray[np.float32]:
    """Logits that depend on every number read, and on its place."""
    rows = np.stack([tokens, positions, values]).astype(np.uint64) + np.uint64(1)
    digest = (rows * _WEIGHTS[:, : rows.shape[1]]).sum(dtype=np.uint64)
    return ((digest * _SPREAD) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 21)


def oracle_logits(token_ids: Iterable[int]) -> Tensor:
    """Logits behind known tokens, computed without any blocks. [1, vocab]"""
    tokens = list(token_ids)
    values, value = [], 0
    for position, token_id in enumerate(tokens):
        value = chain(value, token_id, position)
        values.append(value)
    found = logits_of(np.array(tokens), np.arange(len(tokens)), np.array(values))
    return torch.from_numpy(found)[None]


class FakeTransformer:
    """The forward pass. Checks the batch's own consistency as it goes."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.failure: Exception | None = None

    def forward(self, batch: Batch, kv: Tensor) -> Tensor:
        if self.failure is not None:
            raise self.failure
        self.batches.append(batch.query_lens)
        arena = kv.numpy()  # [num_blocks, 1, 2, 1, block_size, 2]
        starts = batch.query_start.tolist()
        wanted = set(batch.sample_rows.tolist())
        logits = []
        for index, table in enumerate(batch.block_tables.numpy()):
            assert batch.query_lens[index] == starts[index + 1] - starts[index]
            assert batch.host_context_lens[index] == int(batch.context_lens[index])
            assert batch.host_context_lens[index] == int(batch.positions[starts[index + 1] - 1]) + 1
            for row in range(starts[index], starts[index + 1]):
                position = int(batch.positions[row])
                _compute(batch, row, table, arena)
                if row in wanted:
                    logits.append(logits_of(*_read(table, position + 1, arena)))
        assert len(logits) == len(wanted)
        return torch.from_numpy(np.array(logits, dtype=np.float32).reshape(-1, VOCAB_SIZE))


def _compute(batch: Batch, row: int, table: NDArray[np.int32], arena: NDArray) -> None:
    position, token_id = int(batch.positions[row]), int(batch.token_ids[row])
    before = _read(table, position, arena)[2][-1] if position else 0
    value = chain(int(before), token_id, position)
    block, offset = int(batch.slot_blocks[row]), int(batch.slot_offsets[row])
    arena[block, 0, 0, 0, offset] = (token_id, position)
    arena[block, 0, 1, 0, offset] = (value, position)


def _read(table: NDArray[np.int32], num_tokens: int, arena: NDArray) -> NDArray[np.int64]:
    """Token ids, positions and values [3, num_tokens] that the block table leads to."""
    size = arena.shape[4]
    positions = np.arange(num_tokens)
    blocks, offsets = table[positions // size], positions % size
    keys, values = arena[blocks, 0, 0, 0, offsets], arena[blocks, 0, 1, 0, offsets]
    return np.stack([keys[:, 0], keys[:, 1], values[:, 0]]).astype(np.int64)


@dataclass(frozen=True)
class FakeConfig:
    vocab_size: int = VOCAB_SIZE


@dataclass(frozen=True)
class FakeOps:
    sample: Sample = sample_reference
    device_sample: DeviceSample | None = None


@dataclass
class FakeModel:
    """Looks like a `LoadedModel` to an engine."""

    config: FakeConfig = field(default_factory=FakeConfig)
    transformer: FakeTransformer = field(default_factory=FakeTransformer)
    ops: FakeOps = field(default_factory=FakeOps)
    eos_token_ids: tuple[int, ...] = (EOS_ID,)


def fake_layout(block_size: int) -> KvLayout:
    return KvLayout(block_size, 1, 1, 2, "float32", make_namespace("fake", block_size))


def make_engine(*, looks_ahead: bool = False, **sizes: int) -> Engine:
    """An engine on a fake model; `sizes` are fields of `EngineConfig`."""
    config = EngineConfig(
        **{"num_blocks": 64, "block_size": 4, "max_batch_tokens": 16, "context_len": 256, **sizes},
        looks_ahead=looks_ahead,
    )
    arena = TensorArena(fake_layout(config.block_size), config.num_blocks)
    arena.tensor.fill_(-1.0)  # what nobody wrote must not look like anything
    return Engine(ModelRunner(FakeModel(), arena), config, arena)


def greedy(**changes: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, **changes)  # type: ignore[arg-type]


def spec_of(
    sequence_id: str,
    token_ids: Iterable[int],
    sampling: SamplingParams | None = None,
    **rest: object,
) -> SequenceSpec:
    tokens = tuple(token_ids)
    rest = {"prompt_len": len(tokens), **rest}
    return SequenceSpec(sequence_id, tokens, sampling=sampling or greedy(max_tokens=8), **rest)  # type: ignore[arg-type]


def expected(spec: SequenceSpec, context_len: int = 256) -> tuple[list[int], FinishReason]:
    """What an engine must draw for a spec, and why it ends, by definition: token by token."""
    tokens, drawn = list(spec.token_ids), []
    sampling = spec.sampling
    stops = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (EOS_ID,))}
    stops &= set(range(VOCAB_SIZE))
    while True:
        num_output = len(tokens) - spec.prompt_len
        if num_output >= sampling.max_tokens or len(tokens) >= context_len:
            return drawn, FinishReason.LENGTH
        forbidden = stops if num_output < sampling.min_tokens else set()
        rows = _oracle_row(spec, tokens, forbidden)
        token_id = sample_reference(oracle_logits(tokens), rows).token_ids[0]
        tokens.append(token_id)
        drawn.append(token_id)
        if spec.prefill_only:
            return drawn, FinishReason.LENGTH
        if token_id in stops:
            return drawn, FinishReason.STOP


def _oracle_row(spec: SequenceSpec, tokens: list[int], forbidden: set[int]) -> SampleRows:
    sampling = spec.sampling
    bias: Mapping[int, float] = {**sampling.logit_bias, **dict.fromkeys(forbidden, -np.inf)}
    return SampleRows(
        temperature=torch.tensor([sampling.temperature]),
        top_k=torch.tensor([sampling.top_k]),
        top_p=torch.tensor([sampling.top_p]),
        min_p=torch.tensor([sampling.min_p]),
        seed=torch.tensor([sampling.seed]),
        sample_index=torch.tensor([spec.sample_index]),
        output_position=torch.tensor([len(tokens) - spec.prompt_len]),
        repetition_penalty=torch.tensor([sampling.repetition_penalty]),
        presence_penalty=torch.tensor([sampling.presence_penalty]),
        frequency_penalty=torch.tensor([sampling.frequency_penalty]),
        prompt_tokens=(torch.tensor(tokens[: spec.prompt_len]),),
        output_tokens=(torch.tensor(tokens[spec.prompt_len :], dtype=torch.int64),),
        bias_tokens=(torch.tensor(list(bias), dtype=torch.int64),),
        bias_values=(torch.tensor(list(bias.values()), dtype=torch.float32),),
        allowed=(None,),
        logprobs_count=(sampling.logprobs_count,),
    )


@dataclass
class Collected:
    """All news of an engine, by sequence."""

    outputs: list[StepOutput] = field(default_factory=list)

    def take(self, output: StepOutput) -> StepOutput:
        self.outputs.append(output)
        return output

    def tokens(self, sequence_id: str) -> list[int]:
        return [token.token_id for token in self.news(sequence_id)]

    def news(self, sequence_id: str) -> list[NewToken]:
        found = [token for output in self.outputs for token in output.tokens]
        return [token for token in found if token.sequence_id == sequence_id]

    def ends(self) -> Mapping[str, Finished]:
        found = [end for output in self.outputs for end in output.finished]
        ends = {end.sequence_id: end for end in found}
        assert len(ends) == len(found), "a sequence ended twice"
        return MappingProxyType(ends)


def run_until_idle(engine: Engine, collected: Collected | None = None) -> Collected:
    """Steps an engine until it has no work."""
    collected = collected or Collected()
    for _ in range(5000):
        if not engine.has_work:
            return collected
        collected.take(engine.step())
    raise AssertionError("the engine did not come to rest in 5000 steps")


def write_kv(
    arena: TensorArena, block_ids: Iterable[int], token_ids: Iterable[int], start: int = 0
) -> None:
    """Writes what the model would have written for the tokens from `start` on."""
    blocks, size, value = list(block_ids), arena.layout.block_size, 0
    for position, token_id in enumerate(token_ids):
        value = chain(value, token_id, position)
        if position >= start:
            block, offset = blocks[position // size], position % size
            arena.tensor[block, 0, 0, 0, offset] = torch.tensor([token_id, position])
            arena.tensor[block, 0, 1, 0, offset] = torch.tensor([value, position])


def holds_kv(arena: TensorArena, block_ids: Iterable[int], token_ids: Iterable[int]) -> bool:
    """Whether blocks hold what the model writes for these tokens."""
    tokens = list(token_ids)
    found = _read(np.array(list(block_ids), dtype=np.int32), len(tokens), arena.tensor.numpy())
    values, value = [], 0
    for position, token_id in enumerate(tokens):
        value = chain(value, token_id, position)
        values.append(value)
    return found.tolist() == [tokens, list(range(len(tokens))), values]
