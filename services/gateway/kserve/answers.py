"""What the gateway yields for one question as the protocol's responses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from baton.kserve.v2 import inference_pb2 as pb
from baton.request import FinishReason, TokenLogprobs
from services.gateway.kserve.requests import USUAL_OUTPUTS, VERSION, Question
from services.gateway.kserve.tensors import Output, numbers, packed, strings, write_outputs
from services.gateway.types import Chunk, GenerateCommand

FINAL = "triton_final_response"
REQUEST_ID = "baton-request-id"
_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "cancelled",
}
# Where fewer alternatives came than the widest position has.
_NO_ID, _NO_LOGPROB = -1, -math.inf


class Responses:
    """Makes the responses of one question, whole or in parts."""

    def __init__(self, question: Question, command: GenerateCommand, is_stream: bool) -> None:
        self._outputs = question.outputs
        self._is_stream = is_stream
        self._has_empty_final = is_stream and question.wants_empty_final
        self._is_usual = is_stream and question.outputs == USUAL_OUTPUTS
        self._usual: pb.ModelInferResponse | None = None
        self._num_input = len(command.token_ids)
        self._num_output = 0
        self._blank = pb.ModelInferResponse(
            model_name=command.model, model_version=VERSION, id=question.shown_id
        )
        if command.request_id != question.shown_id:
            self._blank.parameters[REQUEST_ID].string_param = command.request_id

    def part(self, chunk: Chunk) -> pb.ModelInferResponse | None:
        """The response for new tokens; None when it would say nothing."""
        self._num_output += len(chunk.token_ids)
        is_last = chunk.finish_reason is not None
        if self._is_usual and chunk.text and not is_last:
            return self._usual_part(chunk.text)
        # Counts in the end are right whatever was left out before; ids and numbers are not.
        is_empty = not chunk.text and not (chunk.logprobs or "output_ids" in self._outputs)
        if is_empty and not is_last:
            return None
        response = self._new(is_final=is_last and not self._has_empty_final)
        write_outputs(response, self._tensors(chunk))
        return response

    def whole(self, chunks: Sequence[Chunk]) -> pb.ModelInferResponse:
        """The one response for all there is."""
        response = self.part(
            Chunk(
                sample_index=0,
                text="".join(chunk.text for chunk in chunks),
                token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
                logprobs=tuple(entry for chunk in chunks for entry in chunk.logprobs),
                finish_reason=chunks[-1].finish_reason,
            )
        )
        assert response is not None
        return response

    def end(self) -> pb.ModelInferResponse | None:
        """The empty response behind the last part, for who asked for it."""
        return self._new(is_final=True) if self._has_empty_final else None

    def _usual_part(self, text: str) -> pb.ModelInferResponse:
        """A part that differs from the ones before it in its text only: most parts are such."""
        if self._usual is None:
            self._usual = self._new(is_final=False)
            write_outputs(self._usual, self._tensors(Chunk(0, "", ())))
            del self._usual.raw_output_contents[:]
        response = pb.ModelInferResponse()
        response.CopyFrom(self._usual)
        response.raw_output_contents.extend((packed(text), packed("")))
        return response

    def _new(self, is_final: bool) -> pb.ModelInferResponse:
        response = pb.ModelInferResponse()
        response.CopyFrom(self._blank)
        if self._is_stream:
            response.parameters[FINAL].bool_param = is_final
        return response

    def _tensors(self, chunk: Chunk) -> Iterator[Output]:
        wanted, reason = self._outputs, chunk.finish_reason
        if "text_output" in wanted:
            yield strings("text_output", chunk.text)
        if "finish_reason" in wanted:
            yield strings("finish_reason", _REASONS[reason] if reason is not None else "")
        if "output_ids" in wanted:
            yield numbers("output_ids", "INT32", chunk.token_ids)
        yield from self._logprobs(chunk.logprobs)
        if "num_input_tokens" in wanted:
            yield numbers("num_input_tokens", "UINT32", (self._num_input,))
        if "num_output_tokens" in wanted:
            yield numbers("num_output_tokens", "UINT32", (self._num_output,))

    def _logprobs(self, positions: Sequence[TokenLogprobs]) -> Iterator[Output]:
        if "logprobs" in self._outputs:
            yield numbers("logprobs", "FP32", [position.logprob for position in positions])
        width = max((len(position.top) for position in positions), default=0)
        rows = [
            [*position.top, *[(_NO_ID, _NO_LOGPROB)] * (width - len(position.top))]
            for position in positions
        ]
        if "top_logprob_ids" in self._outputs:
            ids = [token_id for row in rows for token_id, _ in row]
            yield numbers("top_logprob_ids", "INT32", ids, width)
        if "top_logprobs" in self._outputs:
            values = [value for row in rows for _, value in row]
            yield numbers("top_logprobs", "FP32", values, width)
