"""How often blocks were asked for lately, in bounded memory: a count-min sketch that ages."""

from __future__ import annotations

import struct

from baton.blocks import BlockKey

MAX_COUNT = 15
"""More often than this is all the same: old fame would outlast its use."""
_ROWS = struct.Struct("<4I")
_HALVED = bytes(count // 2 for count in range(256))


class FrequencySketch:
    """Counts uses of keys; all counts halve when `period` uses have been counted.

    Four rows of `width` one-byte counters (a power of two). Keys are digests, so four quarters of a
    key are four independent hashes. The estimate is never below the true count since the last
    halving (up to MAX_COUNT); it is above it for about one key in a thousand at eight uses per
    counter of a row. The idea is TinyLFU's (Einziger, Friedman, Manes, 2017).
    """

    def __init__(self, width: int = 1 << 18, period: int | None = None) -> None:
        if width < 1 or width & (width - 1):
            raise ValueError(f"a sketch's width is a power of two, not {width}")
        self._width = width
        self._mask = width - 1
        self.period = period or 4 * width
        """Uses until the counts halve; may be changed at any time."""
        self._counts = bytearray(4 * width)
        self._num_added = 0

    def add(self, key: BlockKey) -> None:
        """Counts one use."""
        counts = self._counts
        places = self._places(key)
        least = min(counts[place] for place in places)
        if least < MAX_COUNT:
            # Only the lowest counters grow: the others are too high already.
            for place in places:
                if counts[place] == least:
                    counts[place] = least + 1
        self._num_added += 1
        if self._num_added >= self.period:
            self._counts = bytearray(counts.translate(_HALVED))
            self._num_added //= 2

    def estimate(self, key: BlockKey) -> int:
        """Uses lately, 0 to MAX_COUNT."""
        return min(self._counts[place] for place in self._places(key))

    def _places(self, key: BlockKey) -> tuple[int, int, int, int]:
        a, b, c, d = _ROWS.unpack(key)
        mask, width = self._mask, self._width
        return (a & mask, width + (b & mask), 2 * width + (c & mask), 3 * width + (d & mask))
