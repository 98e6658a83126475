"""Cases of take_rows."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from kernels.case import Arguments, Case, Tolerance, normal


def _make(
    device: str,
    shape: tuple[int, int],
    ids: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    stride: int = 1,
) -> Arguments:
    table = normal((shape[0] * stride, shape[1]), seed=1, dtype=dtype).to(device)[::stride]
    return table, torch.tensor(ids, dtype=torch.int64, device=device)


_FAR_ROWS, _WIDTH = 2**21 + 3, 1024


def _make_far(device: str) -> Arguments:
    """A table of over 2**31 elements: 4 GB of which a CPU touches only the rows that are asked."""
    num_elements = _FAR_ROWS * _WIDTH
    flat = (
        # numpy's empty memory stays untouched even where torch's is filled for tests.
        torch.from_numpy(np.empty(num_elements, dtype=np.float16))
        if device == "cpu"
        else torch.empty(num_elements, dtype=torch.float16, device=device)
    )
    table = flat.view(_FAR_ROWS, _WIDTH)
    ids = torch.tensor([_FAR_ROWS - 1, 0, 2**21], device=device)
    table[ids] = normal((3, _WIDTH), seed=2, dtype=torch.float16).to(device)
    return table, ids


_EXACT = Tolerance(0.0, 0.0)

CASES = (
    Case("one row", partial(_make, shape=(3, 8), ids=(2,)), _EXACT),
    Case("no rows", partial(_make, shape=(3, 8), ids=()), _EXACT),
    Case("the last row first, and twice", partial(_make, shape=(7, 64), ids=(6, 0, 6)), _EXACT),
    Case("odd width", partial(_make, shape=(5, 1001), ids=(4, 1)), _EXACT),
    Case("a column beyond the tile", partial(_make, shape=(3, 2049), ids=(1, 2)), _EXACT),
    Case("strided table", partial(_make, shape=(9, 96), ids=(8, 3, 0), stride=2), _EXACT),
    Case("bfloat16", partial(_make, shape=(9, 128), ids=(1, 8), dtype=torch.bfloat16), _EXACT),
    Case("float16", partial(_make, shape=(9, 128), ids=(5,), dtype=torch.float16), _EXACT),
    Case("table of more than 2**31 elements", _make_far, _EXACT),
)
