"""Loading weights: what fits, what does not, and the fingerprint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from paged_model import PagedModel
from safetensors.torch import load_file, save_file

import kernels
from baton.engine.model import fingerprint as fingerprint_module
from baton.engine.model.weights import LoadedModel, load_model
from baton.errors import ModelError

OPS = kernels.load("cpu")
TOKENS = [5, 9, 200, 31, 7]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def _load(folder: Path, dtype: str = "auto", **options: Any) -> LoadedModel:
    return load_model(folder, "cpu", dtype, OPS, **options)


def _logits(model: LoadedModel) -> torch.Tensor:
    return PagedModel(model, 1).compute({0: TOKENS})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model", "llama")


def _change(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_loaded_model_knows_its_facts(folder: Path) -> None:
    model = _load(folder)

    assert model.eos_token_ids == (1,)
    assert model.config.architecture == "LlamaForCausalLM"
    assert model.generation_defaults.temperature == 1.0
    assert len(bytes.fromhex(model.fingerprint)) == 16


def test_shards_load_like_one_file(tmp_path: Path, folder: Path) -> None:
    sharded = make_checkpoint(tmp_path / "sharded", "llama", num_shards=4)

    assert len(list(sharded.glob("*.safetensors"))) == 4
    assert torch.equal(_logits(_load(sharded)), _logits(_load(folder)))


def test_files_that_the_index_does_not_name_are_left_alone(tmp_path: Path) -> None:
    sharded = make_checkpoint(tmp_path / "sharded", "llama", num_shards=2)
    (sharded / "consolidated.safetensors").write_bytes(b"another format of the same weights")

    _load(sharded)


def test_files_of_any_name_load_without_an_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")

    _load(folder)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_auto_is_the_dtype_of_the_config_else_of_the_file(tmp_path: Path, stored: str) -> None:
    folder = make_checkpoint(tmp_path / "model", "qwen3", dtype=stored)
    wanted = getattr(torch, stored)

    assert _load(folder).transformer.dtype is wanted
    _edit_config(folder, torch_dtype=None)
    assert _load(folder).transformer.dtype is wanted
    _edit_config(folder, torch_dtype="float32")
    assert _load(folder).transformer.dtype is torch.float32
    assert _load(folder, "bfloat16").transformer.dtype is torch.bfloat16


def test_an_unknown_dtype_is_named(folder: Path) -> None:
    with pytest.raises(ModelError, match="dtype int8 is not supported; supported: auto, float32"):
        _load(folder, "int8")


def test_missing_tensors_are_named_and_counted(folder: Path) -> None:
    _change(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if "mlp" in name])

    with pytest.raises(ModelError, match=r"6 missing: model\.layers\.0\.mlp\.gate_proj.*, \.\.\."):
        _load(folder)


def test_extra_tensors_are_named(folder: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    _change(folder, lambda tensors: tensors.update({name: torch.zeros(64)}))

    with pytest.raises(ModelError, match=f"1 not expected: {name}"):
        _load(folder)


def test_misshapen_tensors_are_named_with_both_shapes(folder: Path) -> None:
    _change(folder, lambda tensors: tensors.update({Q_PROJ: torch.zeros(64, 32)}))

    with pytest.raises(ModelError, match=rf"1 of another shape: {Q_PROJ} \[64, 32\] instead of \["):
        _load(folder)


def test_weights_of_another_type_are_named(folder: Path) -> None:
    _change(folder, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ].to(torch.int8)}))

    with pytest.raises(ModelError, match=f"{Q_PROJ} is stored as I8, which is not supported"):
        _load(folder)


def test_tensors_that_nothing_reads_do_no_harm(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "qwen2")
    expected = _logits(_load(folder))
    rotary = "model.layers.0.self_attn.rotary_emb.inv_freq"
    extra = {"lm_head.weight": torch.ones(384, 64), rotary: torch.ones(8)}

    _change(folder, lambda tensors: tensors.update(extra))

    assert torch.equal(_logits(_load(folder)), expected)


def test_an_untied_model_without_a_head_is_refused(folder: Path) -> None:
    _change(folder, lambda tensors: tensors.pop("lm_head.weight"))

    with pytest.raises(ModelError, match=r"1 missing: lm_head\.weight"):
        _load(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "model", "llama", num_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()

    with pytest.raises(ModelError, match="1 files that are not there: model-00002-of-00003"):
        _load(folder)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": 3}', "[]"])
def test_a_broken_index_is_named(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)

    with pytest.raises(ModelError, match="cannot be read as an index"):
        _load(folder)


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 9\n"]
)
def test_a_file_that_is_no_safetensors_is_named(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read as safetensors"):
        _load(folder)


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read.*download it again"):
        _load(folder)


def test_a_folder_without_safetensors_says_what_to_do(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"convert pytorch_model\.bin to safetensors"):
        _load(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"no .*safetensors file; download the weights"):
        _load(folder)


def test_progress_counts_layers(folder: Path) -> None:
    seen: list[tuple[int, int]] = []

    _load(folder, on_progress=lambda done, total: seen.append((done, total)))

    assert seen == [(1, 2), (2, 2)]


class TestFingerprint:
    """Equal for what computes the same, different for everything else."""

    def test_a_copy_has_the_same(self, tmp_path: Path, folder: Path) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)

        assert _load(copy).fingerprint == _load(folder).fingerprint

    def test_it_does_not_see_how_text_ends_or_is_drawn(self, folder: Path) -> None:
        before = _load(folder).fingerprint
        _edit_config(folder, max_position_embeddings=2048, torch_dtype="bfloat16")
        (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')

        assert _load(folder).fingerprint == before

    @pytest.mark.parametrize("change", [{"rope_theta": 9999.0}, {"rms_norm_eps": 1e-5}])
    def test_it_sees_a_config_that_computes_otherwise(
        self, folder: Path, change: dict[str, Any]
    ) -> None:
        before = _load(folder).fingerprint
        _edit_config(folder, **change)

        assert _load(folder).fingerprint != before

    def test_it_sees_one_bit_of_one_weight(self, folder: Path) -> None:
        before = _load(folder).fingerprint
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

        assert _load(folder).fingerprint != before

    def test_of_a_large_file_it_sees_header_samples_and_size(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = _load(folder).fingerprint
        monkeypatch.setattr(fingerprint_module, "_WHOLE_BYTES", 100_000)
        monkeypatch.setattr(fingerprint_module, "_SAMPLE_BYTES", 64)
        before = _load(folder).fingerprint
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

        assert before != whole
        assert _load(folder).fingerprint != before
