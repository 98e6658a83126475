"""Every architecture against transformers: logits within float noise, greedy ids equal."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from checkpoints import VOCAB_SIZE, make_checkpoint
from paged_model import PagedModel

import kernels
from baton.engine.model.weights import LoadedModel, load_model

PROMPT_LENS = (1, 15, 16, 17, 33)
MAX_NEW = 20

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, llama3 rope": ("llama", {}),
    "llama, tied, one key head": (
        "llama",
        {"tie_word_embeddings": True, "num_key_value_heads": 1, "rope_scaling": None},
    ),
    "llama, as many key heads, biased": (
        "llama",
        {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True, "num_shards": 3},
    ),
    "llama, linear rope": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama, yarn": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 128,
            }
        },
    ),
    "llama, yarn with its own scale": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 8.0,
                "original_max_position_embeddings": 128,
                "mscale": 1.0,
                "mscale_all_dim": 0.7,
                "beta_fast": 16.0,
                "truncate": False,
            }
        },
    ),
    "llama of transformers 5": (
        "llama",
        {
            "rope_theta": None,
            "rope_scaling": None,
            "torch_dtype": None,
            "dtype": "float32",
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 2.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "mistral, head size of its own": ("mistral", {"head_dim": 24}),
    "mistral, window as long as the test": ("mistral", {"sliding_window": 53}),
    "qwen2, tied": ("qwen2", {}),
    "qwen2, untied, sharded": ("qwen2", {"tie_word_embeddings": False, "num_shards": 2}),
    "qwen3, tied, one key head": ("qwen3", {}),
    "qwen3, untied, three to one": (
        "qwen3",
        {"tie_word_embeddings": False, "num_attention_heads": 6, "num_key_value_heads": 2},
    ),
}


def _prompt(length: int) -> list[int]:
    source = random.Random(length)
    return [source.randrange(4, VOCAB_SIZE) for _ in range(length)]


PROMPTS = [_prompt(length) for length in PROMPT_LENS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        name: make_checkpoint(root / str(index), kind, **overrides)
        for index, (name, (kind, overrides)) in enumerate(MODELS.items())
    }


def _load(
    folder: Path, dtype: str = "float32", choice: str = "", device: str = "cpu"
) -> LoadedModel:
    return load_model(folder, device, dtype, kernels.load(device, choice))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(folders: dict[str, Path], name: str) -> None:
    folder, tokens = folders[name], _prompt(53)

    logits = PagedModel(_load(folder), 1).compute({0: tokens})

    # Logits have a spread of 2.5; float32 sums in another order make them differ by 1e-5.
    torch.testing.assert_close(
        logits, torch.tensor(oracle.logits(folder, tokens)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("chunk_len", [5, 16, 33])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_ids_are_those_of_transformers(
    folders: dict[str, Path], name: str, chunk_len: int
) -> None:
    paged = PagedModel(_load(folders[name]), len(PROMPTS))

    drawn = paged.greedy(PROMPTS, MAX_NEW, chunk_len)

    assert drawn == oracle.greedy(folders[name], PROMPTS, MAX_NEW)
    # A test that repeats one token proves little.
    assert len({token for tokens in drawn for token in tokens}) > 20


@pytest.mark.parametrize("name", ["llama, llama3 rope", "qwen3, tied, one key head"])
def test_reference_kernels_draw_the_same(folders: dict[str, Path], name: str) -> None:
    paged = PagedModel(_load(folders[name], choice="reference"), len(PROMPTS))

    assert paged.greedy(PROMPTS, 8, 7) == oracle.greedy(folders[name], PROMPTS, 8)


def test_chunks_and_decoding_mix_in_one_batch(folders: dict[str, Path]) -> None:
    folder = folders["qwen2, tied"]
    tokens = _prompt(40)
    whole = PagedModel(_load(folder), 1).compute({0: tokens})
    paged = PagedModel(_load(folder), 3)
    paged.compute({0: tokens[:20], 1: tokens[:39]})

    mixed = paged.compute({0: tokens[20:33], 1: tokens[39:], 2: tokens[:1]})

    expected = torch.cat((whole[20:33], whole[39:], whole[:1]))
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)


def test_logits_come_for_the_rows_asked_for(folders: dict[str, Path]) -> None:
    model, tokens = _load(folders["llama, llama3 rope"]), _prompt(20)
    every = PagedModel(model, 1).compute({0: tokens})

    some = PagedModel(model, 1).compute({0: tokens}, sample_rows=[19, 3])
    none = PagedModel(model, 1).compute({0: tokens}, sample_rows=[])

    torch.testing.assert_close(some, every[[19, 3]])
    assert none.shape == (0, VOCAB_SIZE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama, llama3 rope", "qwen3, tied, one key head"])
def test_half_types_stay_near_float32(folders: dict[str, Path], name: str, dtype: str) -> None:
    tokens = _prompt(33)
    exact = PagedModel(_load(folders[name]), 1).compute({0: tokens})

    model = _load(folders[name], dtype)
    logits = PagedModel(model, 1).compute({0: tokens})

    assert model.transformer.dtype is getattr(torch, dtype)
    assert logits.dtype is torch.float32
    # Logits have a spread of 2.5. Roundings of 2**-9 (bfloat16) or 2**-12 add up over two layers.
    limit = 0.25 if dtype == "bfloat16" else 0.03
    assert (logits - exact).pow(2).mean().sqrt() < limit


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_greedy_ids_on_a_gpu(folders: dict[str, Path], name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    paged = PagedModel(_load(folders[name], device="cuda"), len(PROMPTS), "cuda")

    assert paged.greedy(PROMPTS, MAX_NEW, 16) == oracle.greedy(folders[name], PROMPTS, MAX_NEW)
