"""Plans in tensors that stay: what a CUDA graph of attention reads.

Runs on a GPU, and in Triton's interpreter (`test_interpreter.py`).
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch

from kernels.launch import is_interpreted
from kernels.paged_attention import reference
from kernels.paged_attention.cases import Shape, make
from kernels.paged_attention.plan import Heads

DEVICES = [
    pytest.param(
        "cpu",
        id="interpreter-cuda",
        marks=pytest.mark.skipif(not is_interpreted(), reason="needs Triton's interpreter"),
    ),
    pytest.param("cuda", id="gpu", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize("device", DEVICES)
def test_a_plan_is_renewed_in_place(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    cuda = import_module("kernels.paged_attention.cuda")
    static = cuda.StaticPlan(3, Heads(4, 2), 16, torch.float32, device)
    (work,) = static.plans[("cuda", None)]
    pointers = (work.items.data_ptr(), work.merges.data_ptr())

    # Long ones first: what is left of their pieces must not count for the short ones.
    for lens in ((600, 70, 300), (5, 1, 64), (1, 1, 1)):
        q, kv, batch, scale, _ = make(device, Shape((1,) * 3, lens, num_blocks=300))
        static.update(lens)
        result = cuda.run(q, kv, replace(batch, plans=static.plans), scale)
        torch.testing.assert_close(result, reference.run(q, kv, batch, scale))
    assert pointers == (work.items.data_ptr(), work.merges.data_ptr())
