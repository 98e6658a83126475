"""The kvstore's benchmark, as small as it goes: every part runs and fills its tables."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench.kvstore.blocks import measure_blocks
from bench.kvstore.hits import measure_hits, read_trace
from bench.kvstore.recovery import measure_recovery
from bench.options import Run
from bench.progress import Steps


@pytest.fixture
def run() -> Run:
    """A quick one that nobody watches."""
    console = Console(file=io.StringIO())
    return Run(True, Steps(console), console)


async def test_bytes_are_measured_on_every_way(run: Run) -> None:
    (table,) = await measure_blocks(run, sizes=(64 << 10,), batch_bytes=2 << 20)

    (row,) = table.rows
    assert row[0] == 64
    assert len(row) == len(table.columns)
    assert all(isinstance(rate, float) and rate > 0 for rate in row[1:])


def test_hits_are_counted_on_a_trace(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "made_up.jsonl"
    chains = [[turn % 5, 100 + turn % 5, *range(200 + turn % 7, 220)] for turn in range(60)]
    path.write_text("".join(f'{{"hash_ids": {chain}}}\n' for chain in chains))

    tables = measure_hits(run, [read_trace(path, 1000)])

    assert [len(table.rows) > 0 for table in tables] == [True] * 3
    assert all(0 <= row[2] <= 1 and 0 <= row[3] <= 1 for row in tables[0].rows)


async def test_what_a_killed_store_had_on_disk_is_read_back(run: Run, tmp_path: Path) -> None:
    # So much that the first chains are on disk whole: their ends go there first.
    (table,) = await measure_recovery(run, 224 << 20, tmp_path)

    facts = dict(zip(table.columns, table.rows[0], strict=True))
    assert 0 < facts["blocks recovered"] <= facts["blocks before"]
    assert 0 < facts["read and right"] <= facts["blocks asked for"]
    assert not list(tmp_path.iterdir())
