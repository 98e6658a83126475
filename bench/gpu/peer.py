"""transformers on the same shape, with random weights of its own."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.gpu.cells import Clock, Found, Report, Sizes

_WARM_STEPS = 3
_MOST_TOKENS = 65_536
"""Of a decode cell: its prompts run at once here, and their activations must fit."""


def measure_transformers(
    folder: Path, where: tuple[str, torch.dtype], sizes: Sizes, clock: Clock, say: Report
) -> Found:
    """Greedy decode steps and prefill, eager, with torch's attention."""
    from transformers import AutoConfig, AutoModelForCausalLM

    device, dtype = where
    found = Found()
    factory: Any = AutoModelForCausalLM
    facts = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        made: Any = factory.from_config(facts, dtype=dtype)
    model = made.eval()
    for context in sizes.contexts:
        for batch in sizes.batches:
            if clock.is_over or batch * context > _MOST_TOKENS:
                found.num_left_out += 1
                continue
            say(f"transformers, decode, batch {batch}, context {context:,}")
            found.decode_ms[batch, context] = _decode(model, device, (batch, context), sizes)
    for num_tokens in sizes.prefills:
        if clock.is_over:
            found.num_left_out += 1
            continue
        say(f"transformers, prefill, {num_tokens:,} tokens")
        ids = torch.ones(1, num_tokens, dtype=torch.int64, device=device)
        times = [_timed(model, ids) for _ in range(sizes.rounds + 1)]
        found.prefill_ms[num_tokens] = median(times[1:] or times)
    return found


def _decode(model: Any, device: str, size: tuple[int, int], sizes: Sizes) -> float:
    ids, cache = _first(model, torch.ones(size, dtype=torch.int64, device=device))
    times = []
    for _ in range(_WARM_STEPS + sizes.num_steps):
        began = time.perf_counter()
        out = model(input_ids=ids, past_key_values=cache, logits_to_keep=1)
        ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
        ids.tolist()
        times.append((time.perf_counter() - began) * 1e3)
    return median(times[_WARM_STEPS:])


def _first(model: Any, ids: Tensor) -> tuple[Tensor, Any]:
    out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1:].argmax(-1), out.past_key_values


def _timed(model: Any, ids: Tensor) -> float:
    began = time.perf_counter()
    _first(model, ids)[0].tolist()
    return (time.perf_counter() - began) * 1e3
