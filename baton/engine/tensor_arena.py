"""An arena that is one contiguous tensor, for engines that compute with torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baton.blocks import KvLayout
from baton.engine.arena import check_block, check_buffer, check_data

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TensorArena:
    """Blocks `[num_blocks, num_layers, 2, num_kv_heads, block_size, head_dim]` on a device.

    With a `buffer` (CPU only) the tensor is a view of it, so that another process may map the same
    bytes; the buffer must outlive the arena.
    """

    def __init__(
        self,
        layout: KvLayout,
        num_blocks: int,
        device: str | torch.device = "cpu",
        buffer: memoryview | None = None,
    ) -> None:
        self.layout = layout
        self.num_blocks = num_blocks
        self.device = torch.device(device)
        self.buffer = buffer
        self._whole = self._view_of(buffer) if buffer is not None else self._own()
        self.tensor = self._whole[:num_blocks]
        self._bytes = None if self.device.type != "cpu" else _bytes_of(self.tensor)

    @property
    def with_spare(self) -> Tensor:
        """The tensor and one block more, for rows of a step that are there to fill it up."""
        if self.buffer is not None:
            raise ValueError("an arena in memory from outside has no spare block")
        return self._whole

    def _own(self) -> Tensor:
        shape = (self.num_blocks + 1, *self.layout.block_shape)
        return torch.zeros(shape, dtype=_DTYPES[self.layout.dtype], device=self.device)

    def _view_of(self, buffer: memoryview) -> Tensor:
        if self.device.type != "cpu":
            raise ValueError(
                f"an arena in memory from outside lies on the CPU, not on {self.device}"
            )
        wanted = self.num_blocks * self.layout.block_bytes
        check_buffer(buffer, wanted)
        flat = torch.frombuffer(buffer[:wanted], dtype=_DTYPES[self.layout.dtype])
        return flat.view(self.num_blocks, *self.layout.block_shape)

    def block_bytes_view(self, block_id: int) -> memoryview:
        """See `Arena`."""
        if self._bytes is None:
            raise ValueError(
                f"blocks on {self.device} have no view on the host; use read and write"
            )
        check_block(block_id, self.num_blocks)
        size = self.layout.block_bytes
        return self._bytes[block_id * size : (block_id + 1) * size]

    def read(self, block_id: int) -> bytes:
        """See `Arena`."""
        if self._bytes is not None:
            return self.block_bytes_view(block_id).tobytes()
        check_block(block_id, self.num_blocks)
        return _bytes_of(self.tensor[block_id].cpu()).tobytes()

    def write(self, block_id: int, data: bytes | bytearray | memoryview) -> None:
        """See `Arena`."""
        check_block(block_id, self.num_blocks)
        check_data(data, self.layout)
        if self._bytes is not None:
            self.block_bytes_view(block_id)[:] = memoryview(data).cast("B")
            return
        source = torch.frombuffer(bytearray(data), dtype=_DTYPES[self.layout.dtype])
        self.tensor[block_id].copy_(source.view(self.layout.block_shape))


def _bytes_of(tensor: Tensor) -> memoryview:
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)
