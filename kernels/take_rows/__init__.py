"""Gathers rows: embeddings of tokens, or hidden states of the rows to draw from: the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

TakeRows: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`run(table [N, H], ids [S] int64) -> [S, H]`: row `ids[s]` of the table as row s, bit for bit.

A new dense tensor of the table's dtype. Ids lie in 0..N-1 and may repeat, in any order; rows of the
table may be strided, and offsets into it may pass 2**31; S may be 0. The model's head follows it as
a GEMM over S rows, which cuBLAS and oneDNN do best.
"""
