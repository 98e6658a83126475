"""An engine without any service around it: the floor under every hop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

import torch

import kernels
from baton.blocks import KvLayout
from baton.cli.topology import DEMO_MODEL
from baton.engine.engine import Engine
from baton.engine.model.weights import load_model
from baton.engine.runner import ModelRunner
from baton.engine.tensor_arena import TensorArena
from baton.engine.types import EngineConfig, SequenceSpec
from baton.request import SamplingParams
from bench.child import answer_all
from bench.messages import Ran, RunPrompts

_NUM_BLOCKS = 1024


def serve(pipe: Connection, threads: int) -> None:
    """Answers `RunPrompts` with `Ran`, in the calling process."""
    torch.set_num_threads(threads)
    engine = _make_engine()
    num_asked = 0

    def run(message: RunPrompts) -> Ran:
        nonlocal num_asked
        cpu = time.process_time()
        ttfts = []
        for prompt in message.prompts:
            num_asked += 1
            ttfts.append(_run_one(engine, str(num_asked), prompt, message.max_tokens))
        return Ran(ttfts, time.process_time() - cpu)

    answer_all(pipe, run)


def _make_engine() -> Engine:
    model = load_model(DEMO_MODEL, "cpu", "float32", kernels.load("cpu"))
    config = EngineConfig(_NUM_BLOCKS, context_len=model.config.context_len)
    shape = (model.config.num_layers, model.config.num_kv_heads, model.config.head_dim)
    layout = KvLayout(config.block_size, *shape, "float32", "bench")
    arena = TensorArena(layout, _NUM_BLOCKS)
    return Engine(ModelRunner(model, arena), config, arena)


def _run_one(engine: Engine, name: str, prompt: Sequence[int], max_tokens: int) -> float:
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    began = time.monotonic()
    engine.add(SequenceSpec(name, tuple(prompt), len(prompt), sampling))
    ttft_s = 0.0
    while engine.num_sequences:
        if engine.step().tokens and not ttft_s:
            ttft_s = time.monotonic() - began
    return ttft_s
