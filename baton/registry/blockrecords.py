"""Block records: which kvstore holds a block. Hints with a life of their own, never the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from baton.blocks import BlockKey
from baton.registry.client import Client, Pipe, milliseconds
from baton.registry.keys import Keys
from baton.registry.records import BlockRecord

MAX_PENDING_RECORDS = 65_536
MAX_PIPELINE_RECORDS = 512
"""Two commands each: a pipeline takes a few milliseconds, far below a lease."""

# Two nodes may hold one block: a node removes the record only while it names that node.
_REMOVE_OWN = """
for _, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'node') == ARGV[1] then redis.call('DEL', key) end
end
"""


@dataclass(frozen=True, slots=True)
class BlockChanges:
    """Block records to write and to remove, in one go."""

    changes: dict[BlockKey, BlockRecord | None]

    def add_to(self, pipe: Pipe, keys: Keys, node: str, ttl_s: float) -> None:
        """Appends the commands."""
        removed = [keys.block(key) for key, record in self.changes.items() if record is None]
        if removed:
            pipe.eval(_REMOVE_OWN, len(removed), *removed, node)
        for key, record in self.changes.items():
            if record is not None:
                pipe.hset(keys.block(key), mapping=record.to_fields())
                pipe.pexpire(keys.block(key), milliseconds(ttl_s))


class BlockRecordBuffer:
    """Block records that Redis has not taken yet, the newest word per block.

    Bounded: beyond the limit the oldest are dropped and counted. A lost record costs a look-up at
    the kvstore itself.
    """

    def __init__(self, limit: int = MAX_PENDING_RECORDS) -> None:
        self.num_lost = 0
        self._limit = limit
        self._pending: dict[BlockKey, BlockRecord | None] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def put(self, stored: Iterable[BlockRecord], removed: Iterable[BlockKey]) -> None:
        """Notes what was stored, then what was removed."""
        for record in stored:
            self._note(record.key, record)
        for key in removed:
            self._note(key, None)

    def peek(self) -> BlockChanges:
        """The oldest pending changes; they stay until `sent`."""
        return BlockChanges(dict(islice(self._pending.items(), MAX_PIPELINE_RECORDS)))

    def sent(self, changes: BlockChanges) -> None:
        """Redis has these; what was noted meanwhile stays."""
        for key, record in changes.changes.items():
            if key in self._pending and self._pending[key] is record:
                del self._pending[key]

    def _note(self, key: BlockKey, record: BlockRecord | None) -> None:
        # Out and in again: the order is that of the newest word.
        self._pending.pop(key, None)
        if len(self._pending) >= self._limit:
            del self._pending[next(iter(self._pending))]
            self.num_lost += 1
        self._pending[key] = record


async def find_block_records(
    client: Client, keys: Keys, block_keys: Sequence[BlockKey]
) -> list[BlockRecord | None]:
    """The records of these blocks, None where there is none. Raises what Redis raises."""
    pipe = client.pipeline(transaction=False)
    for key in block_keys:
        pipe.hgetall(keys.block(key))
    replies = await pipe.execute()
    return [
        BlockRecord.from_fields(key, reply) if reply else None
        for key, reply in zip(block_keys, replies, strict=True)
    ]
