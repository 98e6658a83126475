"""An engine that takes as long as a real one would: echo's tokens, a table's step times."""

from __future__ import annotations

import time
from collections.abc import Mapping

from baton.engine.echo import EchoRunner, Landed
from baton.engine.load import measure
from baton.engine.sequence import Sequence
from baton.engine.step_times import StepTimes


class EmulatedRunner:
    """Runs as `EchoRunner` does, then sleeps until the step's time is over."""

    def __init__(self, echo: EchoRunner, times: StepTimes) -> None:
        self.vocab_size = echo.vocab_size
        self.eos_token_ids = echo.eos_token_ids
        self._echo = echo
        self._times = times

    def launch(self, chunks: Mapping[Sequence, int]) -> Landed:
        """See `Runner`. Returns when all is done."""
        began = time.monotonic()
        work = measure(chunks)
        landed = self._echo.launch(chunks)
        step_us = self._times.step_us(
            work.num_prompt_tokens, work.num_decode_tokens, work.num_context_tokens
        )
        time.sleep(max(0.0, began + step_us / 1e6 - time.monotonic()))
        return landed
