"""One streamed answer: its text as it comes, and its figures when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.table import Table

from baton.client import AsyncEvents, Chunk, Final
from baton.request import FinishReason, PrefillMode

_MODES = {
    PrefillMode.REMOTE: "computed by {worker}, handed over by {transport} ({size})",
    PrefillMode.LOCAL: "computed by {decode} itself",
    PrefillMode.FALLBACK: "computed by {decode} itself, because {worker} did not deliver",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Times are the client's, in seconds from sending the request."""

    text: str
    first_token_s: float
    last_token_s: float
    final: Final

    @property
    def between_tokens_s(self) -> float:
        """Mean time from one token to the next; 0 for a single token."""
        gaps = self.final.num_output_tokens - 1
        return (self.last_token_s - self.first_token_s) / gaps if gaps > 0 else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of the whole answer, the wait for the first token included."""
        return self.final.num_output_tokens / self.last_token_s if self.last_token_s else 0.0


async def stream_answer(events: AsyncEvents, write: Callable[[str], None]) -> Answer:
    """Hands on each piece of text as it comes. Raises a BatonError where the answer fails."""
    sent = time.monotonic()
    first = last = 0.0
    pieces: list[str] = []
    async with events:
        async for event in events:
            if isinstance(event, Final):
                return Answer("".join(pieces), first, last, event)
            assert isinstance(event, Chunk)
            last = time.monotonic() - sent
            first = first or last
            pieces.append(event.text)
            write(event.text)
    raise AssertionError("events end with a Final or an error")


def summarize(answer: Answer) -> Table:
    """The figures, for people."""
    final = answer.final
    table = Table.grid(padding=(0, 2))
    table.add_row("TTFT", f"{answer.first_token_s * 1e3:.1f} ms", "request sent to first token")
    table.add_row("ITL", f"{answer.between_tokens_s * 1e3:.1f} ms", "mean time between tokens")
    counts = f"{final.num_prompt_tokens} in, {final.num_output_tokens} out{_ending(final)}"
    table.add_row("speed", f"{answer.tokens_per_second:.1f} tokens/s", counts)
    for sample in final.samples:
        timings = sample.timings
        prompt = _MODES[timings.prefill_mode].format(
            worker=timings.prefill_worker_id,
            decode=sample.decode_worker_id,
            transport=timings.transport,
            size=f"{timings.handoff_bytes / 1e6:.2f} MB",
        )
        if final.num_cached_tokens:
            prompt += f"; {final.num_cached_tokens} tokens came from a cache"
        table.add_row("prompt", "", prompt)
        table.add_row("answer", "", f"decoded by {sample.decode_worker_id}")
    return table


def _ending(final: Final) -> str:
    is_cut = any(sample.finish_reason is FinishReason.LENGTH for sample in final.samples)
    return ", cut at its limit" if is_cut else ""
