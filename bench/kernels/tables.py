"""What was measured, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from bench.kernels.rates import Rates
from bench.kernels.run import Measured
from bench.report import Cell, Table


def tables(results: Sequence[Measured], rates: Rates) -> list[Table]:
    """The machine's rates, then the ops."""
    return [_rates(rates), _ops(results)]


def _rates(rates: Rates) -> Table:
    return Table(
        "What the machine does, in this run",
        ("read GB/s", "copy GB/s", "products GFLOP/s"),
        ((rates.read_bytes / 1e9, rates.copy_bytes / 1e9, rates.flops / 1e9),),
        (
            "read: the best of sum, amax and dot over a large tensor; copy: reads and writes, "
            "together; products: of square matrices in the run's type",
        ),
    )


def _ops(results: Sequence[Measured]) -> Table:
    peers = tuple(dict.fromkeys(name for found in results for name in found.peers_s))
    rows: list[tuple[Cell, ...]] = [
        (
            found.op,
            found.shape,
            found.implementation,
            1e6 * found.seconds,
            found.num_bytes / 1e6,
            found.flops / 1e6,
            1e6 * found.floor_s,
            100 * found.floor_s / found.seconds,
            None if found.torch_s is None else 1e6 * found.torch_s,
            None if found.torch_s is None else found.torch_s / found.seconds,
            *(_microseconds(found.peers_s.get(name)) for name in peers),
        )
        for found in results
    ]
    return Table(
        "Ops",
        (
            "op",
            "shape",
            "runs",
            "us",
            "MB",
            "MFLOP",
            "floor us",
            "% of floor",
            "torch us",
            "torch / ours",
            *(f"{name} us" for name in peers),
        ),
        tuple(rows),
        (
            "us: median, caches flushed before each call; on a GPU in a CUDA graph, where the op "
            "reads nothing on the host",
            "MB: what must be read and written once; floor: the longer of MB over the better of "
            "read and copy rate and MFLOP over the rate of products",
            "torch: its own calls on the same arguments, in turn with ours on a CPU, in a graph of "
            "their own on a GPU unless they read something on the host",
            "`reference` runs where no implementation beats it or there is none",
        ),
    )


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e6 * seconds
