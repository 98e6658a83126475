"""A gateway's heart without workers: real tokeniser and rules, scripted answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from baton.errors import BatonError, NoWorker, UnknownModel
from baton.request import FinishReason, Guide, SequenceTimings, TokenLogprobs
from baton.text import ModelText, StopStrings
from baton.tokens import TokenIds
from services.gateway.mailbox import Tray
from services.gateway.types import (
    Chunk,
    Final,
    GenerateCommand,
    ModelInfo,
    SampleSummary,
    Visitor,
)

ANSWER = "The baton is passed 😀 on."
MODEL = "toy"


@dataclass
class FakeGateway:
    """Answers every prompt with the tokens of `answer`, one chunk each, samples in turn.

    Before chunk number `gate_at` it waits for `gate`; with `fail_at` it raises `error` there.
    """

    text_of_model: ModelText
    answer: Callable[[GenerateCommand, int], str] = lambda command, index: ANSWER
    context_len: int = 256
    names: list[str] = field(default_factory=lambda: [MODEL])
    error: BatonError | Exception | None = None
    fail_at: int = 0
    refusal: BatonError | None = None
    """Raised before a prompt is tokenised."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    gate_at: int | None = None
    num_cached_tokens: int = 0
    commands: list[GenerateCommand] = field(default_factory=list)
    guides: list[Guide] = field(default_factory=list)
    num_running: int = 0
    staleness_s: float = 0.0
    num_cancelled: int = 0
    num_chunks: int = 0

    def reset(self) -> None:
        """As new."""
        vars(self).update(vars(FakeGateway(self.text_of_model)))

    def models(self) -> list[ModelInfo]:
        return [
            ModelInfo(name, self.context_len, 1, 1, created=1_700_000_000) for name in self.names
        ]

    async def text(self, model: str) -> tuple[ModelInfo, ModelText]:
        for info in self.models():
            if model in ("", info.name):
                return info, self.text_of_model
        if not self.names:
            raise NoWorker("no worker has come", retry_after_s=1.5)
        raise UnknownModel(f"model {model!r} is not served; served: {self.names}", field="model")

    def welcome(self, model: str, visitor: Visitor) -> Visitor:
        if self.refusal is not None:
            raise self.refusal
        return visitor

    async def encode(
        self, text: ModelText, prompt: str, add_special_tokens: bool = True
    ) -> TokenIds:
        return TokenIds.of(await asyncio.to_thread(text.encode, prompt, add_special_tokens))

    async def guide_fault(self, model: str, guide: Guide) -> str:
        self.guides.append(guide)
        return "cannot be used" if "bad" in guide.source else ""

    async def generate(self, command: GenerateCommand) -> AsyncGenerator[Chunk | Final, None]:
        self.commands.append(command)
        self.num_running += 1
        has_ended = False
        try:
            num_tokens = 0
            for chunk in self._chunks(command):
                await self._before_chunk()
                num_tokens += len(chunk.token_ids)
                yield chunk
            await self._before_chunk()
            has_ended = True
            yield self._final(command, num_tokens)
        except Exception:
            has_ended = True
            raise
        finally:
            self.num_running -= 1
            self.num_cancelled += not has_ended

    async def attend(self, command: GenerateCommand, tray: Tray) -> Final:
        async with aclosing(self.generate(command)) as events:
            async for event in events:
                if isinstance(event, Final):
                    return event
                tray.put(event)
        raise AssertionError("an answer without a final")

    async def _before_chunk(self) -> None:
        if self.gate_at == self.num_chunks:
            await self.gate.wait()
        if self.error is not None and self.fail_at == self.num_chunks:
            raise self.error
        self.num_chunks += 1
        await asyncio.sleep(0)

    def _chunks(self, command: GenerateCommand) -> list[Chunk]:
        by_sample = [
            self._sample(command, index, self.answer(command, index))
            for index in range(command.sample_count)
        ]
        longest = max(map(len, by_sample))
        return [
            chunks[turn] for turn in range(longest) for chunks in by_sample if turn < len(chunks)
        ]

    def _sample(self, command: GenerateCommand, index: int, answer: str) -> list[Chunk]:
        text, sampling = self.text_of_model, command.sampling
        token_ids = text.encode(answer, add_special_tokens=False)
        reason = FinishReason.STOP if len(token_ids) < sampling.max_tokens else FinishReason.LENGTH
        token_ids = token_ids[: sampling.max_tokens]
        detokenizer, stops = text.detokenizer(), StopStrings(sampling.stop_strings)
        chunks = []
        for number, token_id in enumerate(token_ids, start=1):
            said = detokenizer.push([token_id])
            is_last = number == len(token_ids)
            said += detokenizer.flush() if is_last else ""
            shown, hit = stops.push(said, number >= sampling.min_tokens)
            shown += stops.flush() if is_last and hit is None else ""
            ended = FinishReason.STOP if hit else reason if is_last else None
            logprobs = self._logprobs(command, token_id)
            chunks.append(Chunk(index, shown, (token_id,), logprobs, ended, hit or ""))
            if hit:
                break
        return chunks or [Chunk(index, "", (), (), FinishReason.STOP)]

    def _logprobs(self, command: GenerateCommand, token_id: int) -> tuple[TokenLogprobs, ...]:
        count = command.sampling.logprobs_count
        if count is None:
            return ()
        top = [(token_id, -0.5), (0, float("-inf")), *((other, -2.0) for other in range(1, 20))]
        return (TokenLogprobs(token_id, -0.5, tuple(top[:count])),)

    def _final(self, command: GenerateCommand, num_tokens: int) -> Final:
        samples: Sequence[SampleSummary] = [
            SampleSummary(index, FinishReason.STOP, num_tokens, SequenceTimings(), "decode-1")
            for index in range(command.sample_count)
        ]
        return Final(
            request_id=command.request_id,
            model=command.model,
            num_prompt_tokens=len(command.token_ids),
            num_output_tokens=num_tokens,
            num_cached_tokens=self.num_cached_tokens,
            samples=tuple(samples),
            ttft_us=1000,
            total_us=5000,
            seed=command.sampling.seed,
        )
