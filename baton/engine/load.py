"""What a step has to do, counted before it runs."""

from __future__ import annotations

from collections.abc import Mapping

from baton.engine.sequence import Sequence
from baton.engine.types import StepLoad


def measure(chunks: Mapping[Sequence, int]) -> StepLoad:
    """The work in a step's chunks, before they run."""
    num_prompt = num_decode = num_context = 0
    for sequence, num_tokens in chunks.items():
        num_context += sequence.num_computed + num_tokens
        if sequence.has_drawn and sequence.num_uncomputed == 1:
            num_decode += 1
        else:
            num_prompt += num_tokens
    return StepLoad(num_prompt, num_decode, num_context)
