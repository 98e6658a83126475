"""The arena: own memory, memory from outside, bytes in and out."""

from __future__ import annotations

import pytest
import torch

from baton.blocks import KvLayout
from baton.engine.tensor_arena import TensorArena


def layout(dtype: str = "float32") -> KvLayout:
    return KvLayout(4, 3, 2, 5, dtype, "ab" * 16)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_block_is_one_contiguous_range_of_the_layouts_size(dtype: str) -> None:
    arena = TensorArena(layout(dtype), 7)

    view = arena.block_bytes_view(2)
    arena.tensor[2].fill_(1.5)

    assert arena.tensor.shape == (7, 3, 2, 2, 4, 5)
    assert view.nbytes == arena.layout.block_bytes
    assert bytes(view) == bytes(arena.tensor[2].reshape(-1).view(torch.uint8).tolist())
    assert not any(arena.block_bytes_view(1))
    assert not any(arena.block_bytes_view(3))


def test_what_was_written_is_read_back_and_seen_by_the_tensor() -> None:
    arena = TensorArena(layout("bfloat16"), 3)
    source = torch.randn(arena.layout.block_shape, dtype=torch.bfloat16)
    data = bytes(source.reshape(-1).view(torch.uint8).tolist())

    arena.write(1, data)

    assert arena.read(1) == data
    assert torch.equal(arena.tensor[1], source)


def test_an_arena_in_a_buffer_shares_its_bytes() -> None:
    size = layout().block_bytes
    buffer = bytearray(3 * size + 8)  # mappings are rounded up to pages

    arena = TensorArena(layout(), 3, "cpu", memoryview(buffer))
    arena.tensor[2].fill_(2.0)
    buffer[:4] = torch.tensor([7.0]).view(torch.uint8).numpy().tobytes()

    assert buffer[2 * size : 3 * size] == arena.read(2)
    assert arena.tensor.flatten()[0] == 7.0


def test_a_buffer_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        TensorArena(layout(), 3, "cpu", memoryview(bytearray(layout().block_bytes)))


@pytest.mark.parametrize("block_id", [-1, 3])
def test_blocks_outside_the_arena_are_refused(block_id: int) -> None:
    arena = TensorArena(layout(), 3)

    with pytest.raises(ValueError, match=f"block {block_id} is not"):
        arena.read(block_id)
    with pytest.raises(ValueError, match=f"block {block_id} is not"):
        arena.block_bytes_view(block_id)


def test_data_of_the_wrong_size_is_refused() -> None:
    arena = TensorArena(layout(), 3)

    with pytest.raises(ValueError, match="3 bytes are not a block"):
        arena.write(0, b"abc")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_blocks_on_a_gpu_go_in_and_out() -> None:
    arena = TensorArena(layout("bfloat16"), 3, "cuda")
    data = bytes(range(240)) * (arena.layout.block_bytes // 240)

    arena.write(1, data)

    assert arena.read(1) == data
    with pytest.raises(ValueError, match="no view on the host"):
        arena.block_bytes_view(1)
