"""What ends a benchmark."""

from __future__ import annotations


class BenchFailed(Exception):
    """A measurement that cannot be trusted, in one sentence. Nothing is skipped in silence."""
