"""Blocks outside the arena: bytes by hand, errors of narrow forms, heads split and merged."""

from __future__ import annotations

import math
import struct
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.case import normal
from kernels.pack_blocks import reference as packing
from kernels.pack_blocks.cases import CASES
from kernels.packed import LARGEST, TINY, Form, block_bytes, require_whole_tiles
from kernels.unpack_blocks import reference as unpacking


def pack(arena: Tensor, form: Form, block_ids: tuple[int, ...] = (0,)) -> Tensor:
    filled = torch.full((len(block_ids),), arena.shape[4], dtype=torch.int32)
    out = torch.empty((len(block_ids), block_bytes(arena, form)), dtype=torch.uint8)
    packing.run(arena, torch.tensor(block_ids), filled, form, out)
    return out


def round_trip(arena: Tensor, form: Form) -> Tensor:
    result = torch.empty_like(arena)
    ids = tuple(range(len(arena)))
    unpacking.run(pack(arena, form, ids), torch.tensor(ids), form, result)
    return result


def test_bytes_of_a_block_by_hand() -> None:
    # One layer, one head, blocks of three tokens of one value: keys, then values.
    arena = torch.tensor([2.0, -1.0, 0.5, 0.0, 3.0, -4.0]).view(1, 1, 2, 1, 3, 1)

    plain = bytes(pack(arena, Form.PLAIN)[0].numpy())
    int8 = bytes(pack(arena, Form.INT8)[0].numpy())
    fp8 = bytes(pack(arena, Form.FP8)[0].numpy())

    assert plain == struct.pack("<6f", 2, -1, 0.5, 0, 3, -4) + bytes(8)
    # 63.5 is halfway and goes to 64; 31.75 to 32; 95.25 to 95.
    numbers = struct.pack("<6b", 127, -64, 32, 0, 95, -127) + bytes(10)
    assert int8 == numbers + struct.pack("<2f", 2 / 127, 4 / 127) + bytes(8)
    # e4m3: 448 is 0_1111_110, -224 is 1_1110_110, 112 is 0_1101_110. 336 is 1.3125 * 2**8, halfway
    # between mantissas 010 and 011, and goes to the even one.
    numbers = bytes([0b01111110, 0b11110110, 0b01101110, 0, 0b01111010, 0b11111110]) + bytes(10)
    assert fp8 == numbers + struct.pack("<2f", 2 / 448, 4 / 448) + bytes(8)


@pytest.mark.parametrize("form", list(Form))
def test_a_tile_with_a_nan_comes_back_as_nan_and_hurts_no_other(form: Form) -> None:
    arena = normal((1, 2, 2, 2, 4, 8), seed=1)
    arena[0, 1, 0, 1, 2, 3] = float("nan")

    back = round_trip(arena, form)

    is_lost = torch.zeros(arena.shape, dtype=torch.bool)
    is_lost[0, 1, 0, 1] = True
    if form is Form.PLAIN:
        is_lost = arena.isnan()
    assert torch.equal(back.isnan(), is_lost)


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from([Form.INT8, Form.FP8]),
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_value_is_off_by_no_more_than_its_form_allows(
    form: Form, values: list[float], dtype: torch.dtype
) -> None:
    # A quarter of the range leaves room for the peak's own rounding.
    arena = (torch.tensor(values) / 4).to(dtype).view(1, 1, 2, 1, 2, 2)

    back = round_trip(arena, form)

    for tile, made in zip(arena[0, 0], back[0, 0], strict=True):
        peak = tile.abs().max().item()
        if peak < TINY:
            assert not made.any()
            continue
        # Half a step of int8; of fp8 half of a mantissa's last bit, or of the smallest step.
        half_step = torch.full_like(tile.double(), peak / LARGEST[form] * 0.5)
        if form is Form.FP8:
            half_step = (tile.double().abs() * 2.0**-4).clamp(min=peak / 448 * 2.0**-10)
        own = tile.double().abs() * torch.finfo(dtype).eps
        slack = 1 + 1e-5
        assert ((made.double() - tile.double()).abs() <= half_step * slack + own).all()


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("num_senders", [1, 2, 4])
@pytest.mark.parametrize("num_receivers", [1, 2, 4])
def test_heads_split_and_merge_between_workers_of_unequal_parallelism(
    form: Form, num_senders: int, num_receivers: int
) -> None:
    num_heads, ids = 4, (3, 1)
    whole = normal((5, 2, 2, num_heads, 4, 8), seed=2)
    sent = [part.contiguous() for part in whole.chunk(num_senders, dim=3)]
    each, share = num_heads // num_senders, num_heads // num_receivers

    for receiver in range(num_receivers):
        arena = torch.zeros(6, 2, 2, share, 4, 8)
        mine = range(receiver * share, (receiver + 1) * share)
        for sender, part in enumerate(sent):
            both = [head for head in mine if sender * each <= head < (sender + 1) * each]
            if both:
                source = part[:, :, :, both[0] - sender * each : both[-1] + 1 - sender * each]
                target = arena[:, :, :, both[0] - mine[0] : both[-1] + 1 - mine[0]]
                unpacking.run(pack(source, form, ids), torch.tensor([5, 0]), form, target)
        wanted = round_trip(whole, form)[:, :, :, mine[0] : mine[-1] + 1]
        assert torch.equal(arena[[5, 0]], wanted[list(ids)])
        assert not arena[1:5].any()


def test_layers_pack_by_themselves_while_others_are_computed() -> None:
    whole = normal((3, 4, 2, 2, 4, 8), seed=3)
    arena = torch.zeros_like(whole)

    for layers in (slice(0, 1), slice(1, 4)):
        packed = pack(whole[:, layers], Form.INT8, (2, 0))
        unpacking.run(packed, torch.tensor([0, 1]), Form.INT8, arena[:, layers])

    assert torch.equal(arena[:2], round_trip(whole, Form.INT8)[[2, 0]])


def test_a_buffer_of_another_form_is_refused() -> None:
    arena = normal((2, 1, 2, 1, 4, 8), seed=4)
    packed = pack(arena, Form.INT8)

    with pytest.raises(ValueError, match=f"rows of {block_bytes(arena, Form.PLAIN)} bytes"):
        unpacking.run(packed, torch.tensor([0]), Form.PLAIN, arena)


def test_tiles_that_are_not_contiguous_are_refused() -> None:
    with pytest.raises(ValueError, match="not contiguous"):
        require_whole_tiles(torch.zeros(2, 1, 2, 1, 4, 8).transpose(4, 5))


def _by_hand(arena: Any, block_ids: Any, filled: Any, form: Form, out: Tensor) -> bytes:
    """A block's bytes with Python's own numbers, tile by tile."""
    written = bytearray()
    for block, count in zip(block_ids.tolist(), filled.tolist(), strict=True):
        tiles = arena[block].clone()
        tiles[..., count:, :] = 0
        values, scales = bytearray(), bytearray()
        for tile in tiles.flatten(0, 2):
            numbers, scale = _narrow(tile, form)
            values += bytes(numbers.contiguous().view(torch.uint8).flatten().numpy())
            scales += struct.pack("<f", scale)
        written += _filled_up(values)
        written += _filled_up(scales) if form in LARGEST else b""
    return bytes(written)


def _narrow(tile: Tensor, form: Form) -> tuple[Tensor, float]:
    if form is Form.PLAIN:
        return tile, 0.0
    stored = torch.int8 if form is Form.INT8 else torch.float8_e4m3fn
    peak = max(map(abs, tile.float().flatten().tolist()), key=lambda x: math.inf if x != x else x)
    if not math.isfinite(peak):
        return torch.zeros_like(tile).to(stored), math.nan
    if peak < TINY:
        return torch.zeros_like(tile).to(stored), 0.0
    inverse = torch.tensor(LARGEST[form] / peak, dtype=torch.float32)
    scaled = tile.float() * inverse
    return (scaled.round() if form is Form.INT8 else scaled).to(stored), peak / LARGEST[form]


def _filled_up(data: bytearray) -> bytes:
    return bytes(data) + bytes(-len(data) % 16)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_agrees_with_a_second_definition(case: Any) -> None:
    arguments = case.make("cpu")
    wanted = _by_hand(*arguments)

    import_module("kernels.pack_blocks.reference").run(*arguments)

    got = bytes(arguments[-1].numpy())
    if "hostile" in case.name:  # a NaN's bits are the machine's affair
        quiet = struct.pack("<f", math.nan)
        assert got.replace(b"\0\0\xc0\xff", quiet) == wanted.replace(b"\0\0\xc0\xff", quiet)
    else:
        assert got == wanted
