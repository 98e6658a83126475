"""Rows by number on CPUs."""

from __future__ import annotations

from torch import Tensor


def run(table: Tensor, ids: Tensor) -> Tensor:
    """See the contract. Copies rows whole, where indexing goes element by element."""
    return table.index_select(0, ids)
