"""The child's side: questions on standard input, answers on standard output, a JSON line each."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Protocol


class Subject(Protocol):
    """An engine that is measured."""

    def prefill(self, prompt: Sequence[int]) -> float:
        """Milliseconds from a prompt to its first token."""

    def decode(
        self, prompts: Sequence[Sequence[int]], num_tokens: int
    ) -> tuple[list[float], list[list[int]]]:
        """Milliseconds of the steps in which every sequence decodes; each prompt's tokens."""


def serve(subject: Subject) -> None:
    """Answers until standard input ends. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(subject, json.loads(line))), file=answers, flush=True)


def _answer(subject: Subject, question: dict[str, Any]) -> Any:
    if question["op"] == "prefill":
        return subject.prefill(question["prompt"])
    return subject.decode(question["prompts"], question["num_tokens"])
