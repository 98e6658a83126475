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
        # Written out, here and in `estimate`: loops take three times as long.
        counts = self._counts
        a, b, c, d = self._places(key)
        w, x, y, z = counts[a], counts[b], counts[c], counts[d]
        least = min(w, x, y, z)
        if least < MAX_COUNT:
            # Only the lowest counters grow: the others are too high already.
            more = least + 1
            if w == least:
                counts[a] = more
            if x == least:
                counts[b] = more
            if y == least:
                counts[c] = more
            if z == least:
                counts[d] = more
        self._num_added += 1
        if self._num_added >= self.period:
            self._counts = counts.translate(_HALVED)
            self._num_added //= 2

    def estimate(self, key: BlockKey) -> int:
        """Uses lately, 0 to MAX_COUNT."""
        counts = self._counts
        a, b, c, d = self._places(key)
        return min(counts[a], counts[b], counts[c], counts[d])

    def _places(self, key: BlockKey) -> tuple[int, int, int, int]:
        a, b, c, d = _ROWS.unpack(key)
        mask, width = self._mask, self._width
        return (a & mask, width + (b & mask), 2 * width + (c & mask), 3 * width + (d & mask))
