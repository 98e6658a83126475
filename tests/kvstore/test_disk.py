"""The disk tier: what it keeps, what it gives up, what it takes back after a crash."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kvstore_blocks import data_of, key_of

from baton.blocks import BlockKey, checksum
from baton.errors import BatonError
from services.kvstore.disk import DiskTier
from services.kvstore.records import Record, decode_header, encode_header
from services.kvstore.segments import SegmentFile

MIB = 1 << 20
NAMES = ("first", "second")


def record_of(number: int, size: int, tenant: str = "acme") -> Record:
    parent = key_of(number - 1) if number % 3 else None
    return Record(key_of(number), "ns", size, checksum(data_of(number, size)), parent, tenant)


@asynccontextmanager
async def opened(
    folder: Path, capacity: int = 8 * MIB, on_removed: Callable[[BlockKey], None] = lambda _: None
) -> AsyncIterator[DiskTier]:
    disk = DiskTier(folder, capacity, on_removed)
    await disk.start()
    try:
        yield disk
    finally:
        await disk.stop()


async def read(disk: DiskTier, number: int) -> bytes | None:
    block = disk.find(key_of(number), "ns")
    if block is None:
        return None
    target = bytearray(block.placed.record.size_bytes)
    return bytes(target) if await disk.read(block, memoryview(target)) else None


async def fill(disk: DiskTier, numbers: range, size: int, tenant: str = "acme") -> None:
    for number in numbers:
        record = record_of(number, size, tenant)
        while not disk.append(record, memoryview(data_of(number, size))):
            await disk.settled()


async def test_blocks_are_read_back_before_and_after_they_are_in_files(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk:
        await fill(disk, range(30), 100_000)
        early = [await read(disk, number) for number in range(30)]
        await disk.flush()
        late = [await read(disk, number) for number in range(30)]

        assert early == late == [data_of(number, 100_000) for number in range(30)]
        assert disk.find(key_of(1), "other") is None


async def test_a_stopped_tier_comes_back_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk:
        await fill(disk, range(30), 100_000)

    async with opened(tmp_path) as disk:
        assert disk.stats.num_recovered == 30
        assert await read(disk, 7) == data_of(7, 100_000)
        held = disk.find(key_of(7), "ns")
    assert held is not None
    assert held.placed.record == record_of(7, 100_000)


async def test_the_budget_holds_and_what_was_read_goes_round_again(tmp_path: Path) -> None:
    gone: list[BlockKey] = []
    async with opened(tmp_path, on_removed=gone.append) as disk:
        await fill(disk, range(5), 100_000)
        for number in range(2):
            assert await read(disk, number)

        await fill(disk, range(100, 190), 100_000)
        await disk.settled()

        assert disk.used_bytes <= disk.capacity_bytes
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= disk.capacity_bytes
        assert await read(disk, 0) == data_of(0, 100_000)
        assert await read(disk, 1) == data_of(1, 100_000)
        assert await read(disk, 3) is None
        assert key_of(3) in gone
        assert disk.stats.num_kept >= 2


async def test_a_tenant_that_floods_the_disk_pays_with_its_own_blocks(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk:
        await fill(disk, range(30), 100_000, "quiet")  # 3 of the 4 MiB of its share

        await fill(disk, range(100, 500), 100_000, "loud")
        await disk.settled()

        assert [number for number in range(30) if key_of(number) not in disk] == []
        assert await read(disk, 7) == data_of(7, 100_000)
        assert disk.books.tenant_bytes("quiet") == 3_000_000
        assert all(key_of(number) in disk for number in range(480, 500))
        assert disk.used_bytes <= disk.capacity_bytes


async def test_a_tenant_takes_its_share_of_the_disk_from_who_has_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk:
        await fill(disk, range(75), 100_000, "first")

        await fill(disk, range(100, 400), 100_000, "second")
        await disk.settled()
        held = {name: disk.books.tenant_bytes(name) / disk.capacity_bytes for name in NAMES}
        recovered = DiskTier(tmp_path, disk.capacity_bytes, lambda _: None)
        await disk.stop()
        await recovered.start()
        found = {name: recovered.books.tenant_bytes(name) for name in NAMES}
        await recovered.stop()

    assert 0.35 <= held["first"] <= 0.6
    assert 0.35 <= held["second"] <= 0.6
    assert found == {name: share * disk.capacity_bytes for name, share in held.items()}


async def test_flipped_bits_are_never_served_and_the_block_is_gone(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk:
        await fill(disk, range(3), 1000)
    (path,) = tmp_path.glob("*.blocks")
    at = path.read_bytes().index(data_of(1, 1000))
    with path.open("r+b") as file:
        file.seek(at + 500)
        file.write(b"\0\1\2\3")

    async with opened(tmp_path) as disk:
        assert await read(disk, 1) is None
        assert key_of(1) not in disk
        assert await read(disk, 2) == data_of(2, 1000)
        assert disk.stats.num_corrupt == 1


async def test_two_stores_never_share_a_folder(tmp_path: Path) -> None:
    async with opened(tmp_path):
        other = DiskTier(tmp_path, 8 * MIB, lambda _: None)
        with pytest.raises(BatonError, match="belongs to another kvstore"):
            await other.start()


async def test_a_block_larger_than_a_segment_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as disk:
        assert not disk.append(record_of(1, 2 * MIB), memoryview(data_of(1, 2 * MIB)))
        assert disk.append(record_of(2, 1000), memoryview(data_of(2, 1000)))


SIZES = (900, 70, 1300, 64, 2000)


@pytest.fixture(scope="module")
def unsealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segment as a killed process leaves it: records, no seal."""
    folder = tmp_path_factory.mktemp("unsealed")
    file = SegmentFile.create(folder, 1, 1 << 14)
    at = 0
    for number, size in enumerate(SIZES):
        header = encode_header(record_of(number, size), 1)
        file.write(header + data_of(number, size), at)
        at += len(header) + -(-size // 64) * 64
    return file.path


@pytest.fixture(scope="module")
def sealed(unsealed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, sealed."""
    path = tmp_path_factory.mktemp("sealed") / unsealed.name
    shutil.copy(unsealed, path)
    file = SegmentFile.open(path)
    file.seal(file.recover()[0])
    return path


def surviving(original: Path, folder: Path, change: Callable[[bytearray], bytes]) -> list[int]:
    """Blocks that recovery serves from a damaged copy; each is checked byte by byte."""
    path = folder / original.name
    path.write_bytes(change(bytearray(original.read_bytes())))
    file = SegmentFile.open(path)
    placed, is_sealed = file.recover()
    served = []
    for each in placed:
        target = bytearray(each.record.size_bytes)
        is_whole = file.read_into(memoryview(target), each.data_offset)
        if is_whole and checksum(target) == each.record.checksum:
            number = next(n for n in range(len(SIZES)) if key_of(n) == each.record.key)
            assert bytes(target) == data_of(number, SIZES[number])
            assert each.record == record_of(number, SIZES[number])
            served.append(number)
    # Without a seal all that is found has been verified, so nothing else is announced as held.
    assert is_sealed or len(served) == len(placed)
    os.unlink(path)
    return served


def test_a_segment_cut_at_any_byte_serves_whole_blocks_only(unsealed: Path, tmp_path: Path) -> None:
    ends = []
    for number, size in enumerate(SIZES):
        ends.append(unsealed.read_bytes().index(data_of(number, size)) + size)

    for cut in range(0, ends[-1] + 65):
        served = surviving(unsealed, tmp_path, lambda data, cut=cut: bytes(data[:cut]))  # type: ignore[misc]
        assert served == [number for number, end in enumerate(ends) if end <= cut], cut


@pytest.mark.parametrize("kind", ["unsealed", "sealed"])
@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_overwritten_no_torn_block_is_served(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, data: st.DataObject
) -> None:
    original = request.getfixturevalue(kind)
    size = original.stat().st_size
    at = data.draw(st.integers(0, size - 1))
    junk = data.draw(st.binary(min_size=1, max_size=200))

    def change(content: bytearray) -> bytes:
        content[at : at + len(junk)] = junk
        return bytes(content[:size])

    surviving(original, tmp_path, change)  # checks each block it serves


def test_a_header_of_another_segment_is_none() -> None:
    header = encode_header(record_of(1, 100), 7)

    assert decode_header(header, 7) == (record_of(1, 100), len(header))
    assert decode_header(header, 8) is None
