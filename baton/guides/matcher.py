"""A guide's state in one sequence: the `Matcher` of an engine, on llguidance."""

from __future__ import annotations

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

MAX_REASON_LEN = 300


class GuideMatcher:
    """See `baton.engine.types.Matcher`. One thread at a time may use it."""

    __slots__ = ("_state",)

    def __init__(self, state: LLMatcher) -> None:
        self._state = state

    @property
    def fault(self) -> str:
        """Why the guide cannot go on; empty: it can."""
        if not self._state.is_error():
            return ""
        return f"the guide cannot be followed any further: {reason_of(self._state.get_error())}"

    @property
    def is_complete(self) -> bool:
        """Whether the text matches the guide and nothing may follow."""
        return self._state.is_stopped() and not self._state.is_error()

    def fill(self, mask: NDArray[np.int32]) -> None:
        """Writes the mask of tokens that may come next; a contiguous row of the vocabulary's."""
        self._state.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    def allows(self, token_id: int) -> bool:
        """Whether a token may come next."""
        return self._state.validate_tokens([token_id]) == 1

    def advance(self, token_id: int) -> None:
        """Takes a token as the next one."""
        self._state.consume_token(token_id)

    def copy(self) -> GuideMatcher:
        """A matcher of its own in the same place."""
        return GuideMatcher(self._state.deep_copy())


def reason_of(error: str) -> str:
    """The library's complaint in one line, without its state dump."""
    lines = error.split("<state>")[0].split("<non-verbose/>")[0].split()
    reason = " ".join(lines)
    return reason if len(reason) <= MAX_REASON_LEN else reason[:MAX_REASON_LEN] + "…"
