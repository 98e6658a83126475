"""How many kernels a decode step launches on a GPU, counted without one.

The code for GPUs runs on CPU tensors, with Triton's launches noted instead of made, and torch's
operators counted as they are dispatched: one launch each, but for views and new tensors.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_model import spec_of
from torch.utils._python_dispatch import TorchDispatchMode

import kernels
from baton.engine.batch_builder import BatchBuilder
from baton.engine.exchange import Exchange
from baton.engine.model.batch import Batch
from baton.engine.model.config import read_config
from baton.engine.model.transformer import Transformer, Weights
from baton.engine.sequence import Sequence
from bench.gpu.shapes import apart, random_weights, write_config

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

MOST_PER_LAYER = 11
NO_LAUNCH = {"empty", "empty_like", "empty_strided", "new_empty", "detach"}


class Counted(TorchDispatchMode):
    """Counts operators that launch something."""

    def __init__(self, launches: Counter[str]) -> None:
        super().__init__()
        self._launches = launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in NO_LAUNCH:
            self._launches[name] += 1
        return func(*args, **(kwargs or {}))


def gpu_ops() -> kernels.Ops:
    """The table that a GPU has, unchecked."""
    names = {
        op: "cuda" if "cuda" in found else "reference"
        for op, found in kernels.IMPLEMENTATIONS.items()
    }
    runs = {op: import_module(f"kernels.{op}.{name}").run for op, name in names.items()}
    return kernels.Ops(**runs, chosen=names)


def long_batch() -> Batch:
    """A step of single tokens, some behind contexts so long that attention splits them."""
    chunks = {}
    for index, length in enumerate((1500, 900, 40, 3)):
        made = Sequence(spec_of(f"s{index}", [5] * length), (0, index), b"", frozenset(), 0)
        made.token_ids.extend(made.spec.token_ids)
        made.num_computed = length - 1
        made.table.extend(list(range(-(-length // 64))))
        chunks[made] = 1
    return BatchBuilder(64, Exchange(torch.device("cpu"))).build(chunks)


def count(folder: Path, num_layers: int, launches: Counter[str], *, is_apart: bool = False) -> int:
    """Launches of a step."""
    config = replace(read_config(folder), num_layers=num_layers)
    weights: Weights = random_weights(config, "cpu", torch.float32)
    model = Transformer(config, apart(config, weights) if is_apart else weights, gpu_ops())
    batch = long_batch()
    kv = torch.zeros(32, num_layers, 2, config.num_kv_heads, 64, config.head_dim)
    launches.clear()
    with torch.inference_mode(), Counted(launches):
        model.forward(batch, kv)
    return launches.total()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    from triton.runtime.jit import JITFunction

    noted: Counter[str] = Counter()

    def run(self: Any, *_: object, **__: object) -> None:
        noted[self.__name__] += 1

    monkeypatch.setattr(JITFunction, "run", run)
    return noted


def test_a_dense_layer_takes_no_more_launches_than_it_may(
    tmp_path: Path, launches: Counter[str]
) -> None:
    write_config(tmp_path, "tiny")
    few = count(tmp_path, 2, launches)
    assert launches["attend"] == launches["merge"] == 2  # attention splits, and merges

    per_layer = count(tmp_path, 3, launches) - few

    # Four products, attention and its merge, heads and cache, two norms, the gate.
    assert per_layer == 10 <= MOST_PER_LAYER


def test_products_that_are_not_fused_take_more(tmp_path: Path, launches: Counter[str]) -> None:
    write_config(tmp_path, "tiny")
    few = count(tmp_path, 2, launches, is_apart=True)

    assert count(tmp_path, 3, launches, is_apart=True) - few > MOST_PER_LAYER
