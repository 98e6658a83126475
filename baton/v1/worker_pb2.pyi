from baton.v1 import types_pb2 as _types_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetWorkerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetWorkerResponse(_message.Message):
    __slots__ = ("worker_id", "epoch", "role", "model", "context_len", "block_count", "free_block_count", "sequence_count", "layout")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LEN_FIELD_NUMBER: _ClassVar[int]
    BLOCK_COUNT_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCK_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    epoch: str
    role: _types_pb2.WorkerRole
    model: str
    context_len: int
    block_count: int
    free_block_count: int
    sequence_count: int
    layout: _types_pb2.KvLayout
    def __init__(self, worker_id: _Optional[str] = ..., epoch: _Optional[str] = ..., role: _Optional[_Union[_types_pb2.WorkerRole, str]] = ..., model: _Optional[str] = ..., context_len: _Optional[int] = ..., block_count: _Optional[int] = ..., free_block_count: _Optional[int] = ..., sequence_count: _Optional[int] = ..., layout: _Optional[_Union[_types_pb2.KvLayout, _Mapping]] = ...) -> None: ...

class SnapshotBlocksRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotBlocksResponse(_message.Message):
    __slots__ = ("epoch", "event_seq", "keys")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EVENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    event_seq: int
    keys: bytes
    def __init__(self, epoch: _Optional[str] = ..., event_seq: _Optional[int] = ..., keys: _Optional[bytes] = ...) -> None: ...
