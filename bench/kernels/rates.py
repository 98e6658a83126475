"""What the machine can do: how fast it reads, copies and multiplies, by torch's own calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.kernels.job import Job
from bench.kernels.timing import Stopwatch


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured in the same run as what is held against them."""

    read_bytes: float
    """Per second, of a read-only stream."""
    copy_bytes: float
    """Per second, reads and writes of a copy together."""
    flops: float
    """Per second, of a square matrix product."""

    def floor_s(self, job: Job) -> float:
        """The least that the job can take: moving its bytes or multiplying its numbers."""
        bandwidth = max(self.read_bytes, self.copy_bytes)
        return max(job.num_bytes / bandwidth, job.flops / self.flops)


def measure_rates(watch: Stopwatch, device: str, dtype: torch.dtype) -> Rates:
    """On the device as it is now."""
    is_cpu = device == "cpu"
    size = (2**28 if is_cpu else 2**31) // 4
    source = torch.ones(size, device=device)
    target = torch.empty_like(source)
    width = 2048 if is_cpu else 8192
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    reads = (lambda: source.sum(), lambda: source.amax(), lambda: torch.dot(source, source))
    read, copy = [], []
    for call in reads:
        (seconds,) = watch.measure([call], in_graph=not is_cpu)
        read.append(source.numel() * 4 / seconds)
    (seconds,) = watch.measure([lambda: target.copy_(source)], in_graph=not is_cpu)
    copy.append(2 * source.numel() * 4 / seconds)
    (seconds,) = watch.measure([lambda: left @ right], in_graph=not is_cpu)
    return Rates(max(read), max(copy), 2 * width**3 / seconds)
