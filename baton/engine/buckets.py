"""Batch sizes that decode steps are made ready for: a step runs in the next larger one. Pure."""

from __future__ import annotations

from bisect import bisect_left


def bucket_sizes(most: int) -> tuple[int, ...]:
    """Ascending, the last one `most`: powers of two up to 8, then four to a doubling."""
    sizes = []
    size, step = 1, 1
    while size < most:
        sizes.append(size)
        if size >= 8 and size & (size - 1) == 0:
            step = max(size // 4, 4)
        elif size < 8:
            step = size
        size += step
    return (*sizes, most)


def bucket_of(num_sequences: int, sizes: tuple[int, ...]) -> int | None:
    """The smallest size that holds them; None: there is none."""
    index = bisect_left(sizes, num_sequences)
    return sizes[index] if index < len(sizes) else None
