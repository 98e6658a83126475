"""Guided sequences on a tiny random model: an engine, its tokeniser and its matchers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import torch

import kernels
from baton.blocks import KvLayout, make_namespace
from baton.engine.engine import Engine
from baton.engine.model.weights import LoadedModel, load_model
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, Finished, SequenceSpec
from baton.guides import GuideCompiler
from baton.guides.compiler import Compiled
from baton.request import FinishReason, Guide, SamplingParams
from baton.text import ModelText, load_text

PROMPT = (40, 50, 60, 70, 80)


@dataclass(frozen=True)
class Answer:
    """What an engine drew for one sequence."""

    token_ids: list[int]
    end: Finished


class GuidedModel:
    """A model folder of `make_checkpoint`, ready to be asked under guides."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self.text: ModelText = load_text(folder)
        self.model: LoadedModel = load_model(folder, "cpu", "float32", kernels.load("cpu"))
        self.compiler = GuideCompiler(
            folder, self.model.config.vocab_size, self.model.eos_token_ids
        )

    def engine(self, num_blocks: int = 256, *, looks_ahead: bool = False) -> Engine:
        """A new engine; few blocks make it preempt."""
        config = self.model.config
        shape = (config.num_layers, config.num_kv_heads, config.head_dim)
        layout = KvLayout(16, *shape, "float32", make_namespace("guided", *shape))
        sizes = EngineConfig(num_blocks=num_blocks, context_len=1024, looks_ahead=looks_ahead)
        arena = TensorArena(layout, num_blocks, "cpu")
        return Engine(ModelRunner(self.model, arena), sizes, arena)

    def compiled(self, guide: Guide) -> Compiled:
        """The guide, which must be fit."""
        found = self.compiler.compile(guide)
        assert found.matcher is not None, found.fault
        return found

    def spec(
        self,
        guide: Guide,
        sampling: SamplingParams,
        output: tuple[int, ...] = (),
        **fields: Any,
    ) -> SequenceSpec:
        """A sequence that stands behind some output."""
        matcher = self.compiled(guide).matcher
        assert matcher is not None
        for token_id in output:
            matcher.advance(token_id)
        fields = {"sequence_id": "s", **fields}
        return SequenceSpec(
            token_ids=PROMPT + output,
            prompt_len=len(PROMPT),
            sampling=sampling,
            matcher=matcher,
            **fields,
        )

    def ask(self, guide: Guide, sampling: SamplingParams, output: tuple[int, ...] = ()) -> Answer:
        """What one sequence alone draws, behind some output."""
        engine = self.engine()
        engine.add(self.spec(guide, sampling, output))
        return run(engine)["s"]

    def said(self, answer: Answer) -> str:
        """The answer's text; whoever ends a text says nothing with it."""
        return self.text.decode([i for i in answer.token_ids if i not in self.text.eos_token_ids])

    def assert_meets_schema(self, answer: Answer, schema: Any) -> None:
        """An answer that stopped is JSON that the schema describes."""
        if answer.end.reason is FinishReason.STOP:
            jsonschema.validate(json.loads(self.said(answer)), schema)
        else:
            assert answer.end.reason is FinishReason.LENGTH, answer.end.error


def run(engine: Engine) -> dict[str, Answer]:
    """Steps an engine until all of its sequences have ended."""
    tokens: dict[str, list[int]] = {}
    ends: dict[str, Finished] = {}
    while engine.has_work:
        output = engine.step()
        for token in output.tokens:
            tokens.setdefault(token.sequence_id, []).append(token.token_id)
        for end in output.finished:
            ends[end.sequence_id] = end
    return {name: Answer(tokens.get(name, []), end) for name, end in ends.items()}
