"""`python -m bench.engine.transformers_peer`: Hugging Face transformers' generate as a subject."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList

from bench.engine.serve import serve


class _Clock(LogitsProcessor):
    """Notes when the logits of a step are there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return scores


class Transformers:
    """A model in float32 with torch's attention."""

    def __init__(self, folder: str) -> None:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        loaded.generation_config.eos_token_id = None
        loaded.generation_config.pad_token_id = 0
        self._model = loaded

    def prefill(self, prompt: Sequence[int]) -> float:
        """See `Subject`."""
        began = time.perf_counter()
        self._generate([prompt], 1)
        return (time.perf_counter() - began) * 1e3

    def decode(
        self, prompts: Sequence[Sequence[int]], num_tokens: int
    ) -> tuple[list[float], list[list[int]]]:
        """See `Subject`."""
        clock, tokens = self._generate(prompts, num_tokens)
        return [(later - earlier) * 1e3 for earlier, later in pairwise(clock.times)], tokens

    def _generate(
        self, prompts: Sequence[Sequence[int]], num_tokens: int
    ) -> tuple[_Clock, list[list[int]]]:
        clock, ids = _Clock(), torch.tensor(prompts)
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=num_tokens,
                do_sample=False,
                logits_processor=LogitsProcessorList([clock]),
            )
        return clock, out[:, ids.shape[1] :].tolist()


def main() -> None:
    """Serves until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    serve(Transformers(options.model))


if __name__ == "__main__":
    main()
