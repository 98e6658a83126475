from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FindMissingRequest(_message.Message):
    __slots__ = ("keys",)
    KEYS_FIELD_NUMBER: _ClassVar[int]
    keys: bytes
    def __init__(self, keys: _Optional[bytes] = ...) -> None: ...

class FindMissingResponse(_message.Message):
    __slots__ = ("missing",)
    MISSING_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, missing: _Optional[_Iterable[int]] = ...) -> None: ...

class PutRequest(_message.Message):
    __slots__ = ("key", "namespace", "size_bytes", "offset_bytes", "data", "checksum", "parent", "tenant")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    namespace: str
    size_bytes: int
    offset_bytes: int
    data: bytes
    checksum: int
    parent: bytes
    tenant: str
    def __init__(self, key: _Optional[bytes] = ..., namespace: _Optional[str] = ..., size_bytes: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., checksum: _Optional[int] = ..., parent: _Optional[bytes] = ..., tenant: _Optional[str] = ...) -> None: ...

class PutResponse(_message.Message):
    __slots__ = ("stored_count", "present_count", "refused_count")
    STORED_COUNT_FIELD_NUMBER: _ClassVar[int]
    PRESENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_COUNT_FIELD_NUMBER: _ClassVar[int]
    stored_count: int
    present_count: int
    refused_count: int
    def __init__(self, stored_count: _Optional[int] = ..., present_count: _Optional[int] = ..., refused_count: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("keys", "namespace")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    keys: bytes
    namespace: str
    def __init__(self, keys: _Optional[bytes] = ..., namespace: _Optional[str] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("index", "offset_bytes", "data", "checksum")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    index: int
    offset_bytes: int
    data: bytes
    checksum: int
    def __init__(self, index: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class GetStatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatsResponse(_message.Message):
    __slots__ = ("block_count", "used_bytes", "capacity_bytes", "hit_count", "miss_count", "evicted_count", "unwanted_count", "leased_count", "disk_block_count", "disk_used_bytes", "disk_capacity_bytes", "disk_hit_count", "disk_write_count")
    BLOCK_COUNT_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    HIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    MISS_COUNT_FIELD_NUMBER: _ClassVar[int]
    EVICTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    UNWANTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    LEASED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DISK_BLOCK_COUNT_FIELD_NUMBER: _ClassVar[int]
    DISK_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_HIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    DISK_WRITE_COUNT_FIELD_NUMBER: _ClassVar[int]
    block_count: int
    used_bytes: int
    capacity_bytes: int
    hit_count: int
    miss_count: int
    evicted_count: int
    unwanted_count: int
    leased_count: int
    disk_block_count: int
    disk_used_bytes: int
    disk_capacity_bytes: int
    disk_hit_count: int
    disk_write_count: int
    def __init__(self, block_count: _Optional[int] = ..., used_bytes: _Optional[int] = ..., capacity_bytes: _Optional[int] = ..., hit_count: _Optional[int] = ..., miss_count: _Optional[int] = ..., evicted_count: _Optional[int] = ..., unwanted_count: _Optional[int] = ..., leased_count: _Optional[int] = ..., disk_block_count: _Optional[int] = ..., disk_used_bytes: _Optional[int] = ..., disk_capacity_bytes: _Optional[int] = ..., disk_hit_count: _Optional[int] = ..., disk_write_count: _Optional[int] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SharedMemory(_message.Message):
    __slots__ = ("name", "nonce", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    nonce: bytes
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., nonce: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class AttachResponse(_message.Message):
    __slots__ = ("memory",)
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    memory: SharedMemory
    def __init__(self, memory: _Optional[_Union[SharedMemory, _Mapping]] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("keys", "namespace", "max_count", "released_lease_ids", "is_continued")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    MAX_COUNT_FIELD_NUMBER: _ClassVar[int]
    RELEASED_LEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    IS_CONTINUED_FIELD_NUMBER: _ClassVar[int]
    keys: bytes
    namespace: str
    max_count: int
    released_lease_ids: _containers.RepeatedScalarFieldContainer[int]
    is_continued: bool
    def __init__(self, keys: _Optional[bytes] = ..., namespace: _Optional[str] = ..., max_count: _Optional[int] = ..., released_lease_ids: _Optional[_Iterable[int]] = ..., is_continued: bool = ...) -> None: ...

class LeaseResponse(_message.Message):
    __slots__ = ("lease_id", "lease_ms", "size_bytes", "offsets", "checksums", "has_more")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_MS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    lease_id: int
    lease_ms: int
    size_bytes: int
    offsets: _containers.RepeatedScalarFieldContainer[int]
    checksums: _containers.RepeatedScalarFieldContainer[int]
    has_more: bool
    def __init__(self, lease_id: _Optional[int] = ..., lease_ms: _Optional[int] = ..., size_bytes: _Optional[int] = ..., offsets: _Optional[_Iterable[int]] = ..., checksums: _Optional[_Iterable[int]] = ..., has_more: bool = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("lease_ids", "corrupt_keys")
    LEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_KEYS_FIELD_NUMBER: _ClassVar[int]
    lease_ids: _containers.RepeatedScalarFieldContainer[int]
    corrupt_keys: bytes
    def __init__(self, lease_ids: _Optional[_Iterable[int]] = ..., corrupt_keys: _Optional[bytes] = ...) -> None: ...

class ReleaseResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PutSharedRequest(_message.Message):
    __slots__ = ("memory", "namespace", "size_bytes", "keys", "parents", "offsets", "checksums", "tenant")
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    CHECKSUMS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    memory: SharedMemory
    namespace: str
    size_bytes: int
    keys: bytes
    parents: bytes
    offsets: _containers.RepeatedScalarFieldContainer[int]
    checksums: _containers.RepeatedScalarFieldContainer[int]
    tenant: str
    def __init__(self, memory: _Optional[_Union[SharedMemory, _Mapping]] = ..., namespace: _Optional[str] = ..., size_bytes: _Optional[int] = ..., keys: _Optional[bytes] = ..., parents: _Optional[bytes] = ..., offsets: _Optional[_Iterable[int]] = ..., checksums: _Optional[_Iterable[int]] = ..., tenant: _Optional[str] = ...) -> None: ...

class PutSharedResponse(_message.Message):
    __slots__ = ("stored_count", "present_count", "refused_count")
    STORED_COUNT_FIELD_NUMBER: _ClassVar[int]
    PRESENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_COUNT_FIELD_NUMBER: _ClassVar[int]
    stored_count: int
    present_count: int
    refused_count: int
    def __init__(self, stored_count: _Optional[int] = ..., present_count: _Optional[int] = ..., refused_count: _Optional[int] = ...) -> None: ...
