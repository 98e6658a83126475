"""One sample of a request: its tokens so far, their text, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from baton.request import FinishReason, SamplingParams, SequenceTimings
from baton.text import Detokenizer, ModelText, StopStrings
from services.gateway.frames import Delta
from services.gateway.types import Chunk, GenerateCommand, SampleSummary


@dataclass(frozen=True, slots=True)
class _Spoken:
    """What some tokens said. With a stop string, only the first `num_tokens` of them count."""

    text: str
    num_tokens: int
    stop_string: str = ""


class _Voice:
    """Tokens to text for one sample, stop strings cut out."""

    def __init__(self, text: ModelText, command: GenerateCommand) -> None:
        sampling = command.sampling
        self._wants_text = command.want_text
        self._min_tokens = sampling.min_tokens
        self._stops = StopStrings(sampling.stop_strings)
        self._num_tokens = 0
        is_needed = command.want_text or not self._stops.is_empty
        self._detokenizer = text.detokenizer() if is_needed else None
        self.is_plain = self._stops.is_empty
        """Whether all that tokens say may go out as it comes."""
        self.push = self._detokenizer.push if self._detokenizer is not None else _silence
        """The text that new tokens complete, for a plain voice."""

    def say(self, token_ids: list[int]) -> _Spoken:
        """The text that new tokens complete."""
        if self._detokenizer is None:
            return _Spoken("", len(token_ids))
        if self._stops.is_empty:
            return _Spoken(self._detokenizer.push(token_ids), len(token_ids))
        return self._say_one_by_one(self._detokenizer, token_ids)

    def end(self) -> _Spoken:
        """The text kept back until now."""
        if self._detokenizer is None:
            return _Spoken("", 0)
        text, stop = self._stops.push(self._detokenizer.flush(), self._may_stop)
        if stop is None:
            text += self._stops.flush()
        return _Spoken(self._heard(text), 0, stop or "")

    @property
    def _may_stop(self) -> bool:
        return self._num_tokens >= self._min_tokens

    def _say_one_by_one(self, detokenizer: Detokenizer, token_ids: list[int]) -> _Spoken:
        # So that how many tokens count does not depend on how frames were cut.
        parts: list[str] = []
        for position, token_id in enumerate(token_ids, start=1):
            self._num_tokens += 1
            part, stop = self._stops.push(detokenizer.push((token_id,)), self._may_stop)
            parts.append(part)
            if stop is not None:
                return _Spoken(self._heard("".join(parts)), position, stop)
        return _Spoken(self._heard("".join(parts)), len(token_ids))

    def _heard(self, text: str) -> str:
        return text if self._wants_text else ""


def _silence(_: Iterable[int]) -> str:
    return ""


class Sample:
    """What the gateway knows of one sample. It outlives the workers that draw it.

    A sample is *finished* when the client has been told its end, and *closed* when the worker has
    no more to say about it (or is not waited for): then its timings are what they will be.
    """

    def __init__(self, index: int, text: ModelText, command: GenerateCommand) -> None:
        self.index = index
        self.token_ids: list[int] = []
        """Behind the prompt, over all workers."""
        self.finish_reason: FinishReason | None = None
        self.is_closed = False
        self.timings = SequenceTimings()
        self.worker_id = ""
        self.num_migrations = 0
        self.first_token_at = 0.0
        self.last_token_at = 0.0
        self._sampling: SamplingParams = command.sampling
        self._prompt_len = len(command.token_ids)
        self._voice = _Voice(text, command)
        self._stop_ids = frozenset(command.sampling.stop_token_ids)
        self._is_guided = command.sampling.guide is not None
        # A guide that is complete is ended by them even where they are to be ignored.
        if not command.sampling.ignore_eos or self._is_guided:
            self._stop_ids |= frozenset(text.eos_token_ids)
        self._unsaid: list[int] = []
        """A token that may be the stop token: counted, but silent until the next one comes."""

    @property
    def is_finished(self) -> bool:
        """Whether the client has, or is about to get, this sample's last chunk."""
        return self.finish_reason is not None

    def take(self, delta: Delta) -> Chunk | None:
        """Adds a worker's news; returns what the client is to be told. Late tokens are dropped."""
        if self.finish_reason is not None:
            return None
        new_ids = delta.token_ids
        # The road of nearly every token: nothing to hold back, nothing that ends.
        is_plain = self._voice.is_plain and delta.end is None and not self._unsaid and new_ids
        if is_plain and new_ids[-1] not in self._stop_ids:
            self.token_ids += new_ids
            return Chunk(self.index, self._voice.push(new_ids), new_ids, delta.logprobs)
        return self._take_carefully(delta)

    def _take_carefully(self, delta: Delta) -> Chunk | None:
        reason = delta.end.reason if delta.end is not None else None
        words = self._words(delta.token_ids, reason)
        spoken = self._voice.say(words)
        # Tokens behind the one that completed a stop string never were; unsaid ones are counted.
        num_kept = len(delta.token_ids) - (len(words) - spoken.num_tokens)
        if spoken.stop_string:
            num_kept -= len(self._unsaid)
        self.token_ids += delta.token_ids[:num_kept]
        chunk = Chunk(
            self.index, spoken.text, delta.token_ids[:num_kept], delta.logprobs[:num_kept]
        )
        if spoken.stop_string:
            return self._finish(chunk, FinishReason.STOP, spoken.stop_string)
        if reason is not None:
            return self._end(chunk, reason)
        return chunk if chunk.token_ids else None

    def end_alone(self, context_len: int) -> Chunk | None:
        """Ends a sample whose worker was lost between the last token and the news of its end."""
        chunk = Chunk(self.index, "", ())
        if self._unsaid:
            return self._end(chunk, FinishReason.STOP)
        num_tokens = len(self.token_ids)
        if num_tokens >= self._sampling.max_tokens or self._prompt_len + num_tokens >= context_len:
            return self._end(chunk, FinishReason.LENGTH)
        return None

    def summary(self) -> SampleSummary:
        """How it went; for a finished sample."""
        assert self.finish_reason is not None
        return SampleSummary(
            sample_index=self.index,
            finish_reason=self.finish_reason,
            num_output_tokens=len(self.token_ids),
            timings=self.timings,
            decode_worker_id=self.worker_id,
            num_migrations=self.num_migrations,
        )

    def _words(self, token_ids: tuple[int, ...], reason: FinishReason | None) -> list[int]:
        """The tokens whose text is due: not the stop token's, nor that of one that may be it."""
        words = [*self._unsaid, *token_ids]
        # A guide may end a sample behind any token, which is then part of the text.
        may_be_text = reason is None or (reason is FinishReason.STOP and self._is_guided)
        is_last_silent = bool(words) and (
            words[-1] in self._stop_ids if may_be_text else reason is FinishReason.STOP
        )
        self._unsaid = [words.pop()] if is_last_silent else []
        return words

    def _end(self, chunk: Chunk, reason: FinishReason) -> Chunk:
        rest = self._voice.end()
        chunk = Chunk(self.index, chunk.text + rest.text, chunk.token_ids, chunk.logprobs)
        if rest.stop_string:
            return self._finish(chunk, FinishReason.STOP, rest.stop_string)
        stop_token_id = self._unsaid[0] if reason is FinishReason.STOP and self._unsaid else None
        return self._finish(chunk, reason, stop_token_id=stop_token_id)

    def _finish(
        self,
        chunk: Chunk,
        reason: FinishReason,
        stop_string: str = "",
        stop_token_id: int | None = None,
    ) -> Chunk:
        self.finish_reason = reason
        return Chunk(
            self.index,
            chunk.text,
            chunk.token_ids,
            chunk.logprobs,
            finish_reason=reason,
            stop_string=stop_string,
            stop_token_id=stop_token_id,
        )
