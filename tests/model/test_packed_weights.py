"""What native kernels hold weights in, and that nothing but the weights decides a result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import VOCAB_SIZE, make_checkpoint
from paged_model import PagedModel

import kernels
from baton.engine.model.transformer import Transformer
from baton.engine.model.weights import LoadedModel, load_model
from baton.errors import ModelError
from kernels import native

needs_compiler = pytest.mark.skipif(not native.is_available(), reason="needs a C++ compiler")
TOKENS = [4 + (i * 29 + i * i * 7) % (VOCAB_SIZE - 4) for i in range(150)]


def _load(folder: Path, weights: str = "auto", dtype: str = "float32", choice: str = "") -> Any:
    return load_model(folder, "cpu", dtype, kernels.load("cpu", choice), weights=weights)


def _logits(model: LoadedModel, chunk_lens: tuple[int, ...] = (len(TOKENS),)) -> torch.Tensor:
    paged, start, parts = PagedModel(model, 1), 0, []
    for length in chunk_lens:
        parts.append(paged.compute({0: TOKENS[start : start + length]}))
        start += length
    return torch.cat(parts)


@pytest.fixture
def num_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_no_bit_depends_on_chunks_or_batch_or_threads(
    tmp_path: Path, kind: str, weights: str, num_threads: None
) -> None:
    model = _load(make_checkpoint(tmp_path / "model", kind), weights)
    torch.set_num_threads(2)
    whole = _logits(model)

    for chunk_lens in ((1,) * 150, (64, 64, 22), (7, 1, 100, 2, 40)):
        assert torch.equal(_logits(model, chunk_lens), whole)
    torch.set_num_threads(1)
    assert torch.equal(_logits(model), whole)
    paged = PagedModel(model, 3)
    batched = paged.compute({2: TOKENS[:20], 0: TOKENS[:90], 1: TOKENS[:1]})
    assert torch.equal(batched[20:110], whole[:90])
    mixed = paged.compute({1: TOKENS[1:40], 2: TOKENS[20:21], 0: TOKENS[90:91]})
    assert torch.equal(mixed, torch.cat((whole[1:40], whole[20:21], whole[90:91])))


@needs_compiler
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_one_call_computes_what_the_ops_compute_one_by_one(tmp_path: Path, kind: str) -> None:
    model = _load(make_checkpoint(tmp_path / "model", kind))
    weights = model.transformer.weights
    apart = Transformer(model.config, weights, model.ops, fuses=False)

    expected = PagedModel(_WithTransformer(model, apart), 1).compute({0: TOKENS})

    assert torch.equal(_logits(model), expected)


class _WithTransformer:
    """A model under another forward pass."""

    def __init__(self, model: LoadedModel, transformer: Transformer) -> None:
        self.config = model.config
        self.transformer = transformer


@needs_compiler
@pytest.mark.parametrize("tied", [True, False])
def test_a_bfloat16_checkpoint_stays_in_bfloat16_and_loses_nothing(
    tmp_path: Path, tied: bool
) -> None:
    folder = make_checkpoint(
        tmp_path / "model", "qwen3", dtype="bfloat16", tie_word_embeddings=tied
    )

    narrow, wide = _load(folder), _load(folder, "float32")

    assert torch.equal(_logits(narrow), _logits(wide))
    assert narrow.fingerprint == wide.fingerprint
    head = narrow.transformer.weights.head
    assert head.num_bytes * 2 == wide.transformer.weights.head.num_bytes


@needs_compiler
def test_int8_is_near_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama")

    coarse, exact = _load(folder, "int8"), _load(folder)

    # Logits have a spread of 2.5. Weights are off by up to 1/254 of the largest of their output.
    error = (_logits(coarse) - _logits(exact)).pow(2).mean().sqrt()
    assert 0 < error < 0.15
    assert coarse.fingerprint != exact.fingerprint
    assert len(coarse.fingerprint) == len(exact.fingerprint)
    assert _load(folder, "bfloat16").fingerprint not in (coarse.fingerprint, exact.fingerprint)


def test_rows_are_drawn_in_any_order_and_more_than_once(tmp_path: Path) -> None:
    model = _load(make_checkpoint(tmp_path / "model", "qwen3"))
    every = PagedModel(model, 1).compute({0: TOKENS[:20]})

    rows = [1, 0, 19, 2, 1, 1, *range(20)]
    some = PagedModel(model, 1).compute({0: TOKENS[:20]}, sample_rows=rows)

    torch.testing.assert_close(some, every[rows])


@pytest.mark.parametrize(("choice", "dtype"), [("reference", "float32"), ("", "bfloat16")])
def test_int8_needs_native_kernels_and_float32(tmp_path: Path, choice: str, dtype: str) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama")

    with pytest.raises(ModelError, match="int8 need native kernels and the dtype float32"):
        _load(folder, "int8", dtype, choice)


def test_an_unknown_form_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama")

    with pytest.raises(ModelError, match="weights int4 is not supported; supported: auto, float32"):
        _load(folder, "int4")
