"""One sample of a request: its tokens so far, their text, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

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
        self.stop_ids = frozenset(sampling.stop_token_ids)
        """Tokens that end the sample and have no text."""
        # A guide that is complete is ended by them even where they are to be ignored.
        if not sampling.ignore_eos or sampling.guide is not None:
            self.stop_ids |= frozenset(text.eos_token_ids)
        self._stops = StopStrings(sampling.stop_strings) if sampling.stop_strings else None
        self._num_tokens = 0
        is_needed = command.want_text or self._stops is not None
        self._detokenizer = text.detokenizer() if is_needed else None
        self.is_plain = self._stops is None
        """Whether all that tokens say may go out as it comes."""
        detokenizer = self._detokenizer or _SILENCE
        self.push = detokenizer.push
        """The text that new tokens complete, for a plain voice."""
        self.flush = detokenizer.flush
        """The text kept back until the end, for a plain voice."""

    def say(self, token_ids: list[int]) -> _Spoken:
        """The text that new tokens complete."""
        if self._detokenizer is None:
            return _Spoken("", len(token_ids))
        if self._stops is None:
            return _Spoken(self._detokenizer.push(token_ids), len(token_ids))
        return self._say_one_by_one(self._detokenizer, self._stops, token_ids)

    def end(self) -> _Spoken:
        """The text kept back until now."""
        if self._detokenizer is None:
            return _Spoken("", 0)
        if self._stops is None:
            return _Spoken(self._detokenizer.flush(), 0)
        text, stop = self._stops.push(self._detokenizer.flush(), self._may_stop)
        if stop is None:
            text += self._stops.flush()
        return _Spoken(self._heard(text), 0, stop or "")

    @property
    def _may_stop(self) -> bool:
        return self._num_tokens >= self._min_tokens

    def _say_one_by_one(
        self, detokenizer: Detokenizer, stops: StopStrings, token_ids: list[int]
    ) -> _Spoken:
        # So that how many tokens count does not depend on how frames were cut.
        parts: list[str] = []
        for position, token_id in enumerate(token_ids, start=1):
            self._num_tokens += 1
            part, stop = stops.push(detokenizer.push((token_id,)), self._may_stop)
            parts.append(part)
            if stop is not None:
                return _Spoken(self._heard("".join(parts)), position, stop)
        return _Spoken(self._heard("".join(parts)), len(token_ids))

    def _heard(self, text: str) -> str:
        return text if self._wants_text else ""


_NO_TIMINGS = SequenceTimings()


class _Silence:
    """A detokenizer for clients that want no text."""

    def push(self, _: Iterable[int]) -> str:
        return ""

    def flush(self) -> str:
        return ""


_SILENCE = _Silence()


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
        self.timings = _NO_TIMINGS
        self.worker_id = ""
        self.num_migrations = 0
        self.first_token_at = 0.0
        self.last_token_at = 0.0
        self._sampling: SamplingParams = command.sampling
        self._prompt_len = len(command.token_ids)
        self._is_guided = command.sampling.guide is not None
        self._new_voice = partial(_Voice, text, command)
        self._made_voice: _Voice | None = None
        self._unsaid: list[int] = []
        """A token that may be the stop token: counted, but silent until the next one comes."""

    @property
    def is_finished(self) -> bool:
        """Whether the client has, or is about to get, this sample's last chunk."""
        return self.finish_reason is not None

    def get_ready(self) -> None:
        """Makes what turns tokens into text; else the first token waits for it."""
        if self._made_voice is None:
            self._made_voice = self._new_voice()

    @property
    def _voice(self) -> _Voice:
        self.get_ready()
        assert self._made_voice is not None
        return self._made_voice

    def take(self, delta: Delta) -> Chunk | None:
        """Adds a worker's news; returns what the client is to be told. Late tokens are dropped."""
        if self.finish_reason is not None:
            return None
        new_ids, end, voice = delta.token_ids, delta.end, self._made_voice or self._voice
        if voice.is_plain and new_ids and not self._unsaid:
            # The road of nearly every token: nothing to hold back, nothing that ends.
            if end is None and new_ids[-1] not in voice.stop_ids:
                self.token_ids += new_ids
                return Chunk(self.index, voice.push(new_ids), new_ids, delta.logprobs)
            # What has reached its length ends in text, whatever its last token.
            if end is not None and end.reason is FinishReason.LENGTH:
                self.token_ids += new_ids
                self.finish_reason = end.reason
                text = voice.push(new_ids) + voice.flush()
                return Chunk(self.index, text, new_ids, delta.logprobs, end.reason)
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
            words[-1] in self._voice.stop_ids if may_be_text else reason is FinishReason.STOP
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
