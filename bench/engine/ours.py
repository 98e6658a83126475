"""`python -m bench.engine.ours`: Baton's engine as a subject, whole or with something left out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import kernels
from baton.blocks import KvLayout
from baton.engine.engine import Engine
from baton.engine.model.transformer import Transformer
from baton.engine.model.weights import LoadedModel, load_model
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, SequenceSpec
from baton.request import SamplingParams
from bench.engine.serve import serve

_NUM_BLOCKS = 512
_MAX_BATCH_TOKENS = 2048
TORCH_OPS = ",".join(
    f"{op}={'cpu' if 'cpu' in names else 'reference'}"
    for op, names in kernels.IMPLEMENTATIONS.items()
)
"""What runs where there is no compiler."""


class Ours:
    """An engine over a model that is loaded already."""

    def __init__(self, model: LoadedModel) -> None:
        config = model.config
        sizes = EngineConfig(
            _NUM_BLOCKS, context_len=config.context_len, max_batch_tokens=_MAX_BATCH_TOKENS
        )
        shape = (config.num_layers, config.num_kv_heads, config.head_dim)
        layout = KvLayout(sizes.block_size, *shape, "float32", "bench")
        arena = TensorArena(layout, _NUM_BLOCKS)
        self._engine = Engine(ModelRunner(model, arena), sizes, arena)
        self._num_asked = 0

    def prefill(self, prompt: Sequence[int]) -> float:
        """See `Subject`."""
        began = time.perf_counter()
        self._add([prompt], 1)
        while self._engine.num_sequences:
            self._engine.step()
        return (time.perf_counter() - began) * 1e3

    def decode(
        self, prompts: Sequence[Sequence[int]], num_tokens: int
    ) -> tuple[list[float], list[list[int]]]:
        """See `Subject`."""
        names = self._add(prompts, num_tokens)
        found: dict[str, list[int]] = {name: [] for name in names}
        steps_ms = []
        while self._engine.num_sequences:
            has_all = all(found.values())
            began = time.perf_counter()
            tokens = self._engine.step().tokens
            step_ms = (time.perf_counter() - began) * 1e3
            if has_all and len(tokens) == len(names):
                steps_ms.append(step_ms)
            for token in tokens:
                found[token.sequence_id].append(token.token_id)
        return steps_ms, list(found.values())

    def _add(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> list[str]:
        sampling = SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
        names = [str(self._num_asked + index) for index in range(len(prompts))]
        self._num_asked += len(prompts)
        for name, prompt in zip(names, prompts, strict=True):
            self._engine.add(SequenceSpec(name, tuple(prompt), len(prompt), sampling))
        return names


def main() -> None:
    """Serves until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--torch-ops", action="store_true")
    parser.add_argument("--op-by-op", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ops = kernels.load("cpu", TORCH_OPS if options.torch_ops else "")
    model = load_model(options.model, "cpu", "float32", ops, weights=options.weights)
    if options.op_by_op:
        model = _apart(model)
    serve(Ours(model))


def _apart(model: LoadedModel) -> LoadedModel:
    """The same weights, each op a call of its own."""
    return LoadedModel(
        config=model.config,
        transformer=Transformer(model.config, model.transformer.weights, model.ops, fuses=False),
        ops=model.ops,
        fingerprint=model.fingerprint,
        eos_token_ids=model.eos_token_ids,
        generation_defaults=model.generation_defaults,
    )


if __name__ == "__main__":
    main()
