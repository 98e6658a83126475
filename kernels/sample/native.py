"""Sampling on CPUs: torch ranks; random words and the largest of rows come from the library."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.native.library import find, num_threads
from kernels.sample import Sampled, SampleRows
from kernels.sample.cpu import Passes, draw


def run(logits: Tensor, rows: SampleRows) -> Sampled:
    """See the contract."""
    return draw(logits, rows, Passes(_all_words, _largest))


def _all_words(num_groups: int, rows: SampleRows, part: Tensor) -> Tensor:
    keys = (rows.seed, rows.output_position, rows.sample_index)
    seed, position, sample = (key[part].contiguous() for key in keys)
    found = torch.empty(len(part), num_groups, 4)
    find().baton_random_words(
        *(seed.data_ptr(), position.data_ptr(), sample.data_ptr(), len(part), num_groups),
        *(found.data_ptr(), num_threads()),
    )
    return found


def _largest(values: Tensor) -> Tensor:
    if values.stride(1) != 1:
        values = values.contiguous()
    num_rows, size = values.shape
    found = torch.empty(num_rows, dtype=torch.int64)
    find().baton_argmax(
        *(values.data_ptr(), values.stride(0), num_rows, size, found.data_ptr(), num_threads())
    )
    return found
