from baton.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExplainRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("request_id", "decisions", "outcome")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    decisions: _containers.RepeatedCompositeFieldContainer[RouteDecision]
    outcome: RouteOutcome
    def __init__(self, request_id: _Optional[str] = ..., decisions: _Optional[_Iterable[_Union[RouteDecision, _Mapping]]] = ..., outcome: _Optional[_Union[RouteOutcome, _Mapping]] = ...) -> None: ...

class RouteDecision(_message.Message):
    __slots__ = ("unix_seconds", "token_count", "reason", "options", "chosen_index", "rejections")
    UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_INDEX_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    unix_seconds: float
    token_count: int
    reason: str
    options: _containers.RepeatedCompositeFieldContainer[RouteOption]
    chosen_index: int
    rejections: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, unix_seconds: _Optional[float] = ..., token_count: _Optional[int] = ..., reason: _Optional[str] = ..., options: _Optional[_Iterable[_Union[RouteOption, _Mapping]]] = ..., chosen_index: _Optional[int] = ..., rejections: _Optional[_Iterable[str]] = ...) -> None: ...

class RouteOption(_message.Message):
    __slots__ = ("decode_worker_id", "prefill_worker_id", "cost_ms", "ttft_ms", "itl_ms", "terms", "cached_token_count", "fetched_token_count", "computed_token_count")
    DECODE_WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PREFILL_WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    COST_MS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    ITL_MS_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    FETCHED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    decode_worker_id: str
    prefill_worker_id: str
    cost_ms: float
    ttft_ms: float
    itl_ms: float
    terms: _containers.RepeatedCompositeFieldContainer[CostTerm]
    cached_token_count: int
    fetched_token_count: int
    computed_token_count: int
    def __init__(self, decode_worker_id: _Optional[str] = ..., prefill_worker_id: _Optional[str] = ..., cost_ms: _Optional[float] = ..., ttft_ms: _Optional[float] = ..., itl_ms: _Optional[float] = ..., terms: _Optional[_Iterable[_Union[CostTerm, _Mapping]]] = ..., cached_token_count: _Optional[int] = ..., fetched_token_count: _Optional[int] = ..., computed_token_count: _Optional[int] = ...) -> None: ...

class CostTerm(_message.Message):
    __slots__ = ("name", "value_ms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_MS_FIELD_NUMBER: _ClassVar[int]
    name: str
    value_ms: float
    def __init__(self, name: _Optional[str] = ..., value_ms: _Optional[float] = ...) -> None: ...

class RouteOutcome(_message.Message):
    __slots__ = ("result", "ttft_ms", "itl_ms", "timings", "output_token_count")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    ITL_MS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    result: str
    ttft_ms: float
    itl_ms: float
    timings: _types_pb2.SequenceTimings
    output_token_count: int
    def __init__(self, result: _Optional[str] = ..., ttft_ms: _Optional[float] = ..., itl_ms: _Optional[float] = ..., timings: _Optional[_Union[_types_pb2.SequenceTimings, _Mapping]] = ..., output_token_count: _Optional[int] = ...) -> None: ...
