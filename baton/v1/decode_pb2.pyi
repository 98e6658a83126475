from baton.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DecodeConnectRequest(_message.Message):
    __slots__ = ("gateway_id", "submits", "cancels")
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    SUBMITS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    gateway_id: str
    submits: _containers.RepeatedCompositeFieldContainer[SubmitSequence]
    cancels: _containers.RepeatedCompositeFieldContainer[CancelSequence]
    def __init__(self, gateway_id: _Optional[str] = ..., submits: _Optional[_Iterable[_Union[SubmitSequence, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[CancelSequence, _Mapping]]] = ...) -> None: ...

class SubmitSequence(_message.Message):
    __slots__ = ("handle", "request_id", "traceparent", "token_ids", "prompt_len", "sampling", "sample_index", "sample_count", "cache_salt", "priority", "timeout_ms", "prefill_worker_id", "prefill_address")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LEN_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    PREFILL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    handle: int
    request_id: str
    traceparent: str
    token_ids: bytes
    prompt_len: int
    sampling: _types_pb2.SamplingParams
    sample_index: int
    sample_count: int
    cache_salt: str
    priority: int
    timeout_ms: int
    prefill_worker_id: str
    prefill_address: str
    def __init__(self, handle: _Optional[int] = ..., request_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., token_ids: _Optional[bytes] = ..., prompt_len: _Optional[int] = ..., sampling: _Optional[_Union[_types_pb2.SamplingParams, _Mapping]] = ..., sample_index: _Optional[int] = ..., sample_count: _Optional[int] = ..., cache_salt: _Optional[str] = ..., priority: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., prefill_worker_id: _Optional[str] = ..., prefill_address: _Optional[str] = ...) -> None: ...

class CancelSequence(_message.Message):
    __slots__ = ("handle", "sample_index")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    handle: int
    sample_index: int
    def __init__(self, handle: _Optional[int] = ..., sample_index: _Optional[int] = ...) -> None: ...

class DecodeConnectResponse(_message.Message):
    __slots__ = ("epoch", "deltas")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    deltas: _containers.RepeatedCompositeFieldContainer[SequenceDelta]
    def __init__(self, epoch: _Optional[str] = ..., deltas: _Optional[_Iterable[_Union[SequenceDelta, _Mapping]]] = ...) -> None: ...

class SequenceDelta(_message.Message):
    __slots__ = ("handle", "sample_index", "token_ids", "logprobs", "end")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    handle: int
    sample_index: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_types_pb2.PositionLogprobs]
    end: SequenceEnd
    def __init__(self, handle: _Optional[int] = ..., sample_index: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_types_pb2.PositionLogprobs, _Mapping]]] = ..., end: _Optional[_Union[SequenceEnd, _Mapping]] = ...) -> None: ...

class SequenceEnd(_message.Message):
    __slots__ = ("finish_reason", "error", "timings")
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    finish_reason: _types_pb2.FinishReason
    error: _types_pb2.Error
    timings: _types_pb2.SequenceTimings
    def __init__(self, finish_reason: _Optional[_Union[_types_pb2.FinishReason, str]] = ..., error: _Optional[_Union[_types_pb2.Error, _Mapping]] = ..., timings: _Optional[_Union[_types_pb2.SequenceTimings, _Mapping]] = ...) -> None: ...
