"""Sampling on CPUs: torch ranks, random words come from the library."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.native.library import find, num_threads
from kernels.sample import Sampled, SampleRows
from kernels.sample.cpu import draw


def run(logits: Tensor, rows: SampleRows) -> Sampled:
    """See the contract."""
    return draw(logits, rows, _all_words)


def _all_words(num_groups: int, rows: SampleRows, part: Tensor) -> Tensor:
    keys = (rows.seed, rows.output_position, rows.sample_index)
    seed, position, sample = (key[part].contiguous() for key in keys)
    found = torch.empty(len(part), num_groups, 4)
    find().baton_random_words(
        *(seed.data_ptr(), position.data_ptr(), sample.data_ptr(), len(part), num_groups),
        *(found.data_ptr(), num_threads()),
    )
    return found
