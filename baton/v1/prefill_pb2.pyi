from baton.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PrefillConnectRequest(_message.Message):
    __slots__ = ("hello", "opens", "closed_session_ids")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OPENS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    hello: PrefillHello
    opens: _containers.RepeatedCompositeFieldContainer[OpenSession]
    closed_session_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, hello: _Optional[_Union[PrefillHello, _Mapping]] = ..., opens: _Optional[_Iterable[_Union[OpenSession, _Mapping]]] = ..., closed_session_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class PrefillHello(_message.Message):
    __slots__ = ("worker_id", "epoch", "connection_id", "layout", "arena", "verify", "transports")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    ARENA_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    epoch: str
    connection_id: str
    layout: _types_pb2.KvLayout
    arena: SharedArena
    verify: bool
    transports: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, worker_id: _Optional[str] = ..., epoch: _Optional[str] = ..., connection_id: _Optional[str] = ..., layout: _Optional[_Union[_types_pb2.KvLayout, _Mapping]] = ..., arena: _Optional[_Union[SharedArena, _Mapping]] = ..., verify: bool = ..., transports: _Optional[_Iterable[str]] = ...) -> None: ...

class SharedArena(_message.Message):
    __slots__ = ("name", "nonce", "block_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    nonce: bytes
    block_count: int
    def __init__(self, name: _Optional[str] = ..., nonce: _Optional[bytes] = ..., block_count: _Optional[int] = ...) -> None: ...

class OpenSession(_message.Message):
    __slots__ = ("session_id", "request_id", "traceparent", "token_ids", "prompt_len", "sampling", "sample_index", "cache_salt", "priority", "timeout_ms", "first_block", "block_ids")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LEN_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_INDEX_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    FIRST_BLOCK_FIELD_NUMBER: _ClassVar[int]
    BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    request_id: str
    traceparent: str
    token_ids: bytes
    prompt_len: int
    sampling: _types_pb2.SamplingParams
    sample_index: int
    cache_salt: str
    priority: int
    timeout_ms: int
    first_block: int
    block_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, session_id: _Optional[int] = ..., request_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., token_ids: _Optional[bytes] = ..., prompt_len: _Optional[int] = ..., sampling: _Optional[_Union[_types_pb2.SamplingParams, _Mapping]] = ..., sample_index: _Optional[int] = ..., cache_salt: _Optional[str] = ..., priority: _Optional[int] = ..., timeout_ms: _Optional[int] = ..., first_block: _Optional[int] = ..., block_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class PrefillConnectResponse(_message.Message):
    __slots__ = ("hello", "updates")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    hello: PrefillHelloReply
    updates: _containers.RepeatedCompositeFieldContainer[SessionUpdate]
    def __init__(self, hello: _Optional[_Union[PrefillHelloReply, _Mapping]] = ..., updates: _Optional[_Iterable[_Union[SessionUpdate, _Mapping]]] = ...) -> None: ...

class PrefillHelloReply(_message.Message):
    __slots__ = ("worker_id", "epoch", "transport", "lock_name")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    LOCK_NAME_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    epoch: str
    transport: str
    lock_name: str
    def __init__(self, worker_id: _Optional[str] = ..., epoch: _Optional[str] = ..., transport: _Optional[str] = ..., lock_name: _Optional[str] = ...) -> None: ...

class SessionUpdate(_message.Message):
    __slots__ = ("session_id", "pushed_block_count", "checksums", "end")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    PUSHED_BLOCK_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    pushed_block_count: int
    checksums: _containers.RepeatedScalarFieldContainer[int]
    end: SessionEnd
    def __init__(self, session_id: _Optional[int] = ..., pushed_block_count: _Optional[int] = ..., checksums: _Optional[_Iterable[int]] = ..., end: _Optional[_Union[SessionEnd, _Mapping]] = ...) -> None: ...

class SessionEnd(_message.Message):
    __slots__ = ("error", "token_id", "logprobs", "queue_us", "compute_us", "push_us", "hidden_push_us", "cached_token_count")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_US_FIELD_NUMBER: _ClassVar[int]
    PUSH_US_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_PUSH_US_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    error: _types_pb2.Error
    token_id: int
    logprobs: _types_pb2.PositionLogprobs
    queue_us: int
    compute_us: int
    push_us: int
    hidden_push_us: int
    cached_token_count: int
    def __init__(self, error: _Optional[_Union[_types_pb2.Error, _Mapping]] = ..., token_id: _Optional[int] = ..., logprobs: _Optional[_Union[_types_pb2.PositionLogprobs, _Mapping]] = ..., queue_us: _Optional[int] = ..., compute_us: _Optional[int] = ..., push_us: _Optional[int] = ..., hidden_push_us: _Optional[int] = ..., cached_token_count: _Optional[int] = ...) -> None: ...

class StreamBlocksRequest(_message.Message):
    __slots__ = ("connection_id",)
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    def __init__(self, connection_id: _Optional[str] = ...) -> None: ...

class StreamBlocksResponse(_message.Message):
    __slots__ = ("session_id", "block_index", "offset_bytes", "data", "checksum")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BLOCK_INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    session_id: int
    block_index: int
    offset_bytes: int
    data: bytes
    checksum: int
    def __init__(self, session_id: _Optional[int] = ..., block_index: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...
