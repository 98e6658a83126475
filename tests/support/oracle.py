"""Greedy answers and logits from Hugging Face transformers, computed in a child process.

Transformers looks for a distribution called `kernels` and would find our folder: the child runs
where the repository is on no import path. It imports transformers once and then answers questions,
a line of JSON each.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

_Question = dict[str, Any]


def greedy(folder: Path, prompts: list[list[int]], max_new: int) -> list[list[int]]:
    """The `max_new` likeliest tokens behind each prompt; eos ids do not end them."""
    return [
        list(_greedy(str(folder), _stamp(folder), tuple(prompt), max_new)) for prompt in prompts
    ]


def logits(folder: Path, token_ids: list[int]) -> list[list[float]]:
    """The logits behind each token of one sequence: [len(token_ids), vocab_size]."""
    answer: list[list[float]] = _ask({"do": "logits", "folder": str(folder), "tokens": token_ids})
    return answer


@cache
def _greedy(folder: str, stamp: int, prompt: tuple[int, ...], max_new: int) -> tuple[int, ...]:
    return tuple(_ask({"do": "greedy", "folder": folder, "tokens": prompt, "max_new": max_new}))


def _stamp(folder: Path) -> int:
    """Changes when a test writes another model into a folder."""
    return (folder / "config.json").stat().st_mtime_ns


def _ask(question: _Question) -> Any:
    child = _child()
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(question) + "\n")
    child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(
            f"the transformers oracle ended with code {child.wait()}; see its stderr"
        )
    return json.loads(line)


@cache
def _child() -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    child = subprocess.Popen(
        [sys.executable, "-I", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tempfile.gettempdir(),
        env=environment,
    )
    atexit.register(_end, child)
    return child


def _end(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()  # the child's loop ends with its input
    child.wait(timeout=30)
    child.stdout.close()


def _hide_repository() -> None:
    """Undoes an editable install of the repository for this process."""
    repository = Path(__file__).resolve().parents[2]
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != repository]
    sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in getattr(f, "__module__", "")]


def _answer_all() -> None:
    _hide_repository()
    from importlib.util import find_spec

    assert find_spec("kernels") is None, "the repository's kernels are visible to transformers"
    answers, sys.stdout = sys.stdout, sys.stderr  # nobody else prints between the answers
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


def _answer(question: _Question) -> Any:
    import torch

    model = _model(question["folder"], _stamp(Path(question["folder"])))
    with torch.inference_mode():
        tokens = torch.tensor([question["tokens"]])
        if question["do"] == "logits":
            return model(tokens).logits[0].tolist()
        drawn: list[int] = []
        past = None
        for _ in range(question["max_new"]):
            output = model(tokens, past_key_values=past, use_cache=True)
            past = output.past_key_values
            tokens = output.logits[:, -1:].argmax(-1)
            drawn.append(int(tokens))
        return drawn


@cache
def _model(folder: str, stamp: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


if __name__ == "__main__":
    _answer_all()
