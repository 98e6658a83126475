"""What a step has to do, counted before it runs."""

from __future__ import annotations

from collections.abc import Mapping

from baton.engine.sequence import Sequence
from baton.engine.types import StepLoad


def measure(chunks: Mapping[Sequence, int]) -> StepLoad:
    """The work in a step's chunks, before they run."""
    num_decode = sum(s.has_drawn and s.num_uncomputed == 1 for s in chunks)
    return StepLoad(
        num_prompt_tokens=sum(chunks.values()) - num_decode,
        num_decode_tokens=num_decode,
        num_context_tokens=sum(s.num_computed + n for s, n in chunks.items()),
    )
