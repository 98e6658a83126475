"""What a request may say about its answer: names, types, and where each value goes.

A value comes as a request parameter, as an input tensor or inside `sampling_parameters` (JSON), the
way vLLM's Triton backend takes them; numbers and truth values may be text there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from baton.errors import InvalidRequest
from baton.kserve.v2 import inference_pb2 as pb
from services.gateway.kserve.tensors import Tensor

SAMPLING_PARAMETERS = "sampling_parameters"
PRIORITY_LEVELS = 201
"""Triton's levels: 1 runs first. They are ours turned round: 1 is 100, 101 is 0, 201 is -100."""
DEFAULT_PRIORITY_LEVEL = 101

# No state is kept between requests, so a sequence of them is nothing special.
IGNORED = frozenset({"sequence_id", "sequence_start", "sequence_end"})

Converter = Callable[[str, Any], Any]


def _refusal(name: str, value: object, wanted: str) -> InvalidRequest:
    shown = repr(value)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    return InvalidRequest(f"{name} is {shown}; {wanted} is needed.", field=name)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refusal(name, value, "one whole number")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise _refusal(name, value, "one number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refusal(name, value, "one number")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise _refusal(name, value, "true or false")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _refusal(name, value, "one text")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(name, item) for item in _listed(value))


def _wholes(name: str, value: Any) -> tuple[int, ...]:
    return tuple(_whole(name, item) for item in _listed(value))


def _biases(name: str, value: Any) -> dict[int, float]:
    table = _json(name, value) if isinstance(value, str) else value
    if not isinstance(table, dict):
        raise _refusal(name, value, "a JSON object of token ids and numbers")
    return {_whole(name, key): _number(name, bias) for key, bias in table.items()}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _microseconds(name: str, value: Any) -> float:
    count = _whole(name, value)
    if count < 0:
        raise _refusal(name, count, "a number of microseconds that is not negative")
    return count / 1e6


def _priority(name: str, value: Any) -> int:
    level = _whole(name, value)
    if not 0 <= level <= PRIORITY_LEVELS:
        raise _refusal(name, level, f"a level from 1 (first) to {PRIORITY_LEVELS}, or 0,")
    return DEFAULT_PRIORITY_LEVEL - (level or DEFAULT_PRIORITY_LEVEL)


def _only_one(name: str, value: Any) -> int:
    if _whole(name, value) != 1:
        raise _refusal(name, value, "1, since a request has one answer here,")
    return 1


def _only_true(name: str, value: Any) -> bool:
    if not _flag(name, value):
        raise _refusal(name, value, "true, since text_output never holds the prompt,")
    return True


@dataclass(frozen=True, slots=True)
class Parameter:
    """One name: what it is turned into, and how a tensor of it looks."""

    key: str
    """A field of `GenerateFields`, of `SloHints` or of `Wishes`."""
    convert: Converter
    datatype: str
    shape: tuple[int, ...] = (1,)


PARAMETERS: Mapping[str, Parameter] = {
    "max_tokens": Parameter("max_tokens", _whole, "INT32"),
    "min_tokens": Parameter("min_tokens", _whole, "INT32"),
    "temperature": Parameter("temperature", _number, "FP32"),
    "top_p": Parameter("top_p", _number, "FP32"),
    "top_k": Parameter("top_k", _whole, "INT32"),
    "min_p": Parameter("min_p", _number, "FP32"),
    "repetition_penalty": Parameter("repetition_penalty", _number, "FP32"),
    "presence_penalty": Parameter("presence_penalty", _number, "FP32"),
    "frequency_penalty": Parameter("frequency_penalty", _number, "FP32"),
    "seed": Parameter("seed", _whole, "UINT64"),
    "stop": Parameter("stop_strings", _texts, "BYTES", (-1,)),
    "stop_token_ids": Parameter("stop_token_ids", _wholes, "INT32", (-1,)),
    "ignore_eos": Parameter("ignore_eos", _flag, "BOOL"),
    "logprobs": Parameter("logprobs_count", _whole, "INT32"),
    "logit_bias": Parameter("logit_bias", _biases, "BYTES"),
    "n": Parameter("sample_count", _only_one, "INT32"),
    "cache_salt": Parameter("cache_salt", _text, "BYTES"),
    "tenant": Parameter("tenant", _text, "BYTES"),
    "priority": Parameter("priority", _priority, "UINT64"),
    "timeout": Parameter("timeout_s", _microseconds, "UINT64"),
    "target_ttft_ms": Parameter("target_ttft_ms", _whole, "UINT32"),
    "target_itl_ms": Parameter("target_itl_ms", _whole, "UINT32"),
    "expected_output_count": Parameter("expected_output_count", _whole, "UINT32"),
    "stream": Parameter("streams", _flag, "BOOL"),
    "streaming": Parameter("streams", _flag, "BOOL"),
    "exclude_input_in_output": Parameter("excludes_input", _only_true, "BOOL"),
    "return_token_ids": Parameter("output_ids", _flag, "BOOL"),
    "return_finish_reason": Parameter("finish_reason", _flag, "BOOL"),
    "return_num_input_tokens": Parameter("num_input_tokens", _flag, "BOOL"),
    "return_num_output_tokens": Parameter("num_output_tokens", _flag, "BOOL"),
    "triton_enable_empty_final_response": Parameter("wants_empty_final", _flag, "BOOL"),
}
SLO_NAMES = ("target_ttft_ms", "target_itl_ms", "expected_output_count")
NAMES: Mapping[str, str] = {
    "text": "text_input",
    "token_ids": "input_ids",
    "request_id": "id",
    **{parameter.key: name for name, parameter in PARAMETERS.items()},
    **{f"slo.{name}": name for name in SLO_NAMES},
}
"""What fields of `GenerateFields` are called here."""


def collect(
    parameters: Mapping[str, pb.InferParameter], tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Values by key. Raises `InvalidRequest` that names what is unknown, twice there or unfit."""
    values: dict[str, Any] = {}
    for name, value in _given(parameters, tensors):
        if name in IGNORED:
            continue
        parameter = PARAMETERS.get(name)
        if parameter is None:
            raise InvalidRequest(
                f"{name} is not known; known: {', '.join(PARAMETERS)}.", field=name
            )
        if parameter.key in values:
            raise InvalidRequest(f"{name} is given twice.", field=name)
        values[parameter.key] = parameter.convert(name, value)
    return values


def _given(
    parameters: Mapping[str, pb.InferParameter], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[str, Any]]:
    for name, message in parameters.items():
        kind = message.WhichOneof("parameter_choice")
        value = getattr(message, kind) if kind is not None else None
        yield from _opened(name, value)
    for name, tensor in tensors.items():
        known = PARAMETERS.get(name)
        is_list = known is not None and known.shape != (1,)
        if tensor.count != 1 and not is_list:
            raise tensor.refusal(f"has {tensor.count:,} elements; exactly one is allowed")
        yield from _opened(name, tensor.values() if is_list else tensor.values()[0])


def _opened(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The pair itself, or the pairs inside `sampling_parameters`."""
    if name != SAMPLING_PARAMETERS:
        yield name, value
        return
    table = _json(name, _text(name, value))
    if not isinstance(table, dict):
        raise _refusal(name, value, "a JSON object")
    yield from ((key, item) for key, item in table.items() if item is not None)


def _json(name: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"{name} is not JSON: {error}.", field=name) from error
