"""OpenVINO GenAI as a subject. Runs in an environment of its own, and so imports nothing of ours.

It needs openvino-genai, and optimum-intel to convert the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any


def convert(folder: Path, target: Path) -> None:
    """Writes the checkpoint as OpenVINO's, weights in float32."""
    if (target / "openvino_model.xml").exists():
        return
    command = [str(Path(sys.executable).with_name("optimum-cli")), "export", "openvino"]
    command += ["--model", str(folder), "--task", "text-generation-with-past"]
    command += ["--weight-format", "fp32", str(target)]
    subprocess.run(command, check=True, stdout=sys.stderr)


class OpenVino:
    """Continuous batching, greedy, float32."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._numpy: Any = import_module("numpy")
        self._openvino: Any = import_module("openvino")
        self._genai: Any = import_module("openvino_genai")
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_batched_tokens = 2048
        scheduler.enable_prefix_caching = False
        properties = {
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
            "INFERENCE_NUM_THREADS": threads,
        }
        self._pipeline = self._genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU", properties
        )
        self._num_asked = 0

    def prefill(self, prompt: list[int]) -> float:
        """Milliseconds from a prompt to its first token."""
        began = time.perf_counter()
        self._run([prompt], 1)
        return (time.perf_counter() - began) * 1e3

    def decode(
        self, prompts: list[list[int]], num_tokens: int
    ) -> tuple[list[float], list[list[int]]]:
        """Milliseconds of steps in which all decode; each prompt's tokens."""
        return self._run(prompts, num_tokens)

    def _run(
        self, prompts: list[list[int]], num_tokens: int
    ) -> tuple[list[float], list[list[int]]]:
        config = self._genai.GenerationConfig()
        config.max_new_tokens = num_tokens
        config.set_eos_token_id(0)
        config.ignore_eos = True
        config.do_sample = False
        handles = []
        for prompt in prompts:
            ids = self._openvino.Tensor(self._numpy.array([prompt], dtype=self._numpy.int64))
            handles.append(self._pipeline.add_request(self._num_asked, ids, config))
            self._num_asked += 1
        steps: list[float] = []
        tokens: list[list[int]] = [[] for _ in prompts]
        while self._pipeline.has_non_finished_requests():
            has_all = all(tokens)
            began = time.perf_counter()
            self._pipeline.step()
            taken = (time.perf_counter() - began) * 1e3
            for found, handle in zip(tokens, handles, strict=True):
                if handle.can_read():
                    for output in handle.read().values():
                        found += output.generated_ids
            if has_all:
                steps.append(taken)
        return steps, tokens


def main() -> None:
    """Serves until standard input ends; the same lines as bench.engine.serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    target = options.model.with_name(options.model.name + "-openvino")
    convert(options.model, target)
    subject = OpenVino(target, options.threads)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["op"] == "prefill":
            answer: object = subject.prefill(asked["prompt"])
        else:
            answer = subject.decode(asked["prompts"], asked["num_tokens"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
