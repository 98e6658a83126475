"""The arena: all blocks of an engine side by side, as others see it, and one in plain memory."""

from __future__ import annotations

from typing import Protocol

from baton.blocks import KvLayout


class Arena(Protocol):
    """Blocks `[num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]`, wherever they lie.

    Methods take no lock: whoever writes a block must own it. A block id outside the arena, and data
    that is not one block, raise ValueError.
    """

    @property
    def layout(self) -> KvLayout:
        """How a block lies."""

    @property
    def num_blocks(self) -> int:
        """Blocks are numbered from 0 to one less than this."""

    def block_bytes_view(self, block_id: int) -> memoryview:
        """A block's bytes in place, writable. Raises ValueError if they are not in host memory."""

    def read(self, block_id: int) -> bytes:
        """A copy of a block's bytes."""

    def write(self, block_id: int, data: bytes | bytearray | memoryview) -> None:
        """Overwrites a block."""


class HostArena:
    """An arena in host memory, its own or a `buffer` that must outlive it. Loads no torch."""

    def __init__(self, layout: KvLayout, num_blocks: int, buffer: memoryview | None = None) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        wanted = num_blocks * layout.block_bytes
        buffer = memoryview(bytearray(wanted)) if buffer is None else buffer
        check_buffer(buffer, wanted)
        self.memory = buffer[:wanted].cast("B")
        """All blocks' bytes."""

    def block_bytes_view(self, block_id: int) -> memoryview:
        """See `Arena`."""
        check_block(block_id, self.num_blocks)
        size = self.layout.block_bytes
        return self.memory[block_id * size : (block_id + 1) * size]

    def read(self, block_id: int) -> bytes:
        """See `Arena`."""
        return self.block_bytes_view(block_id).tobytes()

    def write(self, block_id: int, data: bytes | bytearray | memoryview) -> None:
        """See `Arena`."""
        view = self.block_bytes_view(block_id)
        check_data(data, self.layout)
        view[:] = memoryview(data).cast("B")


def check_block(block_id: int, num_blocks: int) -> None:
    """Raises ValueError for a block that an arena does not have."""
    if not 0 <= block_id < num_blocks:
        raise ValueError(f"block {block_id} is not one of the arena's {num_blocks}")


def check_buffer(buffer: memoryview, wanted: int) -> None:
    """Raises ValueError for memory that does not hold all blocks."""
    if buffer.nbytes < wanted:
        raise ValueError(f"a buffer of {buffer.nbytes} bytes is too small for {wanted} of blocks")


def check_data(data: bytes | bytearray | memoryview, layout: KvLayout) -> None:
    """Raises ValueError for bytes that are not one block."""
    size = memoryview(data).nbytes
    if size != layout.block_bytes:
        raise ValueError(f"{size} bytes are not a block of {layout.block_bytes} bytes")
