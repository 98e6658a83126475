"""A `ModelInferRequest` as raw fields for the gateway, and what its answer is to hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from baton.errors import InvalidRequest, UnknownModel
from baton.kserve.v2 import inference_pb2 as pb
from services.gateway import identity
from services.gateway.fields import GenerateFields
from services.gateway.kserve.parameters import collect
from services.gateway.kserve.tensors import Tensor, read_inputs
from services.gateway.types import SloHints
from services.gateway.validation import MAX_REQUEST_ID_LEN

TEXT_INPUT = "text_input"
INPUT_IDS = "input_ids"
VERSION = "1"

# Tensors of an answer, in their order.
OUTPUTS = (
    *("text_output", "finish_reason", "output_ids", "logprobs", "top_logprob_ids", "top_logprobs"),
    *("num_input_tokens", "num_output_tokens"),
)
USUAL_OUTPUTS = frozenset({"text_output", "finish_reason"})
"""What an answer holds when nothing else is asked for."""
# Parameters by which an answer gets more than the usual tensors, called like these.
_ASKED_BY_FLAG = frozenset({"output_ids", "num_input_tokens", "num_output_tokens"})
_OF_LOGPROBS = frozenset({"logprobs", "top_logprob_ids", "top_logprobs"})
_ID_FORM = re.compile(rf"[\x21-\x7e]{{1,{MAX_REQUEST_ID_LEN}}}")


@dataclass(frozen=True, slots=True)
class Origin:
    """What the call says beside its messages."""

    traceparent: str = ""
    time_left_s: float | None = None
    """None: the call has no deadline."""
    api_key: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A request, read but not yet checked against a model."""

    fields: GenerateFields
    shown_id: str
    """What responses carry: the client's id whatever it looks like, else ours."""
    outputs: frozenset[str]
    streams: bool | None
    """None: as is usual for the call."""
    wants_empty_final: bool


def read(request: pb.ModelInferRequest, origin: Origin) -> Question:
    """Reads all of a request. Raises `InvalidRequest` with the field, its value and the limit."""
    check_version(request.model_version)
    tensors = read_inputs(request)
    prompt = _prompt(tensors.pop(TEXT_INPUT, None), tensors.pop(INPUT_IDS, None))
    values = collect(request.parameters, tensors)
    outputs = _outputs(request.outputs, values)
    if "logprobs_count" not in values and outputs & _OF_LOGPROBS:
        values["logprobs_count"] = 0
    request_id = request.id if _ID_FORM.fullmatch(request.id) else identity.new_request_id()
    known = {name: value for name, value in values.items() if name in _GENERATE_FIELDS}
    known["timeout_s"] = _timeout_s(values, origin)
    return Question(
        fields=GenerateFields(
            **known,
            **prompt,
            request_id=request_id,
            model=request.model_name,
            slo=_slo(values),
            want_text="text_output" in outputs,
            traceparent=origin.traceparent,
            api_key=origin.api_key,
        ),
        shown_id=request.id or request_id,
        outputs=outputs,
        streams=values.get("streams"),
        wants_empty_final=values.get("wants_empty_final", False),
    )


def check_version(version: str) -> None:
    """Raises `UnknownModel` for a version that no model has."""
    if version not in ("", VERSION):
        raise UnknownModel(
            f"model_version is {version!r}; every model has one version, {VERSION!r}.",
            field="model_version",
        )


def _prompt(text: Tensor | None, token_ids: Tensor | None) -> dict[str, Any]:
    if text is not None and token_ids is not None:
        raise InvalidRequest(
            f"{TEXT_INPUT} and {INPUT_IDS} are both given; a request holds one prompt.",
            field=INPUT_IDS,
        )
    if token_ids is not None:
        return {"token_ids": token_ids.token_ids()}
    if text is None:
        raise InvalidRequest(
            f"{TEXT_INPUT} is missing; the prompt is a BYTES tensor of this name, or token ids in "
            f"{INPUT_IDS}.",
            field=TEXT_INPUT,
        )
    if text.datatype != "BYTES":
        raise text.refusal(f"is {text.datatype}; the prompt is a BYTES tensor")
    if text.count != 1:
        raise text.refusal(
            f"has {text.count:,} elements; exactly one is allowed, since a request holds one prompt"
        )
    return {"text": text.values()[0]}


def _outputs(
    requested: Sequence[pb.ModelInferRequest.InferRequestedOutputTensor], values: dict[str, Any]
) -> frozenset[str]:
    for message in requested:
        if message.name not in OUTPUTS:
            raise InvalidRequest(
                f"output {message.name!r} is not known; known: {', '.join(OUTPUTS)}.",
                field="outputs",
            )
        for parameter in message.parameters:
            raise InvalidRequest(
                f"output {message.name} has the parameter {parameter!r}, which is not supported.",
                field="outputs",
            )
    asked = {name for name in _ASKED_BY_FLAG if values.get(name)}
    if requested:
        return frozenset(message.name for message in requested) | asked
    return USUAL_OUTPUTS | asked | (_OF_LOGPROBS if "logprobs_count" in values else frozenset())


def _timeout_s(values: dict[str, Any], origin: Origin) -> float:
    """The shorter of what the request and the call's deadline allow; 0: neither says."""
    limits = [values["timeout_s"]] if values.get("timeout_s") else []
    if origin.time_left_s is not None:
        limits.append(max(origin.time_left_s, 0.001))
    return min(limits, default=0.0)


def _slo(values: dict[str, Any]) -> SloHints:
    return SloHints(**{name: values[name] for name in _SLO_FIELDS if name in values})


_GENERATE_FIELDS = frozenset(field.name for field in fields(GenerateFields))
_SLO_FIELDS = tuple(field.name for field in fields(SloHints))
