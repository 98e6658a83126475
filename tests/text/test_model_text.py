"""What a model folder says about text, and what happens when it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.errors import InvalidRequest, ModelError
from baton.text import GenerationDefaults, load_text
from tests.support.tokenizers_made import (
    byte_level_tokenizer,
    metaspace_tokenizer,
    write_folder,
)


def test_text_survives_encoding_and_decoding(tmp_path: Path) -> None:
    text = load_text(write_folder(tmp_path, metaspace_tokenizer()))

    ids = text.encode("hello wörld 😀")

    assert ids[0] == 1
    assert text.decode(ids) == "hello wörld 😀"
    assert text.encode("hello wörld 😀", add_special_tokens=False) == ids[1:]


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": False}, {"add_eos_token": True}])
def test_special_tokens_are_added_as_transformers_adds_them(
    flags: dict[str, bool], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_folder(
        tmp_path,
        metaspace_tokenizer(),
        tokenizer_config={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            **flags,
        },
    )
    oracle = transformers.PreTrainedTokenizerFast.from_pretrained(folder)

    assert load_text(folder).encode("hello world") == oracle("hello world")["input_ids"]


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [7, 5, 7]}, {"eos_token_id": 3}, (7, 5)),
        ({"eos_token_id": 7}, {"eos_token_id": 3}, (7,)),
        ({"eos_token_id": None}, {"eos_token_id": 3}, (3,)),
        (None, {"eos_token_id": None}, ()),
    ],
)
def test_generation_config_names_the_end_of_sequence_first(
    generation: dict[str, object] | None,
    config: dict[str, object],
    expected: tuple[int, ...],
    tmp_path: Path,
) -> None:
    folder = write_folder(
        tmp_path, byte_level_tokenizer(), generation_config=generation, config=config
    )

    assert load_text(folder).eos_token_ids == expected


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, GenerationDefaults()),
        ({"temperature": 0.1, "top_k": 5}, GenerationDefaults()),
        ({"do_sample": False, "temperature": 0.1}, GenerationDefaults()),
        (
            {"do_sample": True, "temperature": 1, "top_p": 0.9, "repetition_penalty": 1.1},
            GenerationDefaults(1.0, 0.9, 0, 1.1),
        ),
        ({"do_sample": True, "top_k": 20}, GenerationDefaults(top_k=20)),
    ],
)
def test_generation_config_counts_only_where_it_samples(
    generation: dict[str, object], expected: GenerationDefaults, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path, byte_level_tokenizer(), generation_config=generation)

    assert load_text(folder).generation_defaults == expected


def test_a_single_token_keeps_its_space_and_its_bytes(tmp_path: Path) -> None:
    spaced = load_text(write_folder(tmp_path / "a", metaspace_tokenizer()))
    byte_level = load_text(write_folder(tmp_path / "b", byte_level_tokenizer()))
    euro = byte_level.encode("€", add_special_tokens=False)
    rocket = spaced.encode("🚀", add_special_tokens=False)

    assert spaced.token_text(spaced.encode("hello world")[-6]) == " "
    assert spaced.token_text(1) == "<s>"
    assert spaced.token_text(10**6) == ""
    assert b"".join(map(byte_level.token_bytes, euro)) == "€".encode()
    assert b"".join(map(spaced.token_bytes, rocket)) == " 🚀".encode()
    assert byte_level.token_bytes(byte_level.eos_token_ids[0]) == b"<|im_end|>"


def test_truncation_left_in_a_tokenizer_file_is_switched_off(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=5)

    text = load_text(write_folder(tmp_path, tokenizer))

    assert text.decode(text.encode("The quick brown fox jumps")) == "The quick brown fox jumps"


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    first = load_text(write_folder(tmp_path / "a", byte_level_tokenizer()))
    same = load_text(write_folder(tmp_path / "b", byte_level_tokenizer()))
    other = load_text(
        write_folder(tmp_path / "c", byte_level_tokenizer(), tokenizer_config={"chat_template": ""})
    )

    assert first.fingerprint == same.fingerprint
    assert first.fingerprint != other.fingerprint


def test_an_impossible_token_id_is_refused(tmp_path: Path) -> None:
    text = load_text(write_folder(tmp_path, byte_level_tokenizer()))

    with pytest.raises(InvalidRequest, match="token_ids"):
        text.decode([-1])


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("tokenizer.json", None, "has no tokenizer.json; write one with"),
        ("tokenizer.json", "{", "is not a tokenizer"),
        ("config.json", None, "has no config.json"),
        ("config.json", "[]", "must hold a JSON object"),
        ("config.json", "{}", "max_position_embeddings"),
        ("config.json", '{"max_position_embeddings": 8, "eos_token_id": "x"}', "eos_token_id"),
        ("generation_config.json", "not json", "is not valid JSON"),
        ("generation_config.json", '{"do_sample": true, "top_p": "x"}', "top_p"),
        ("tokenizer_config.json", "[1]", "must hold a JSON object"),
    ],
)
def test_a_broken_folder_says_what_is_wrong(
    name: str, content: str | None, complaint: str, tmp_path: Path
) -> None:
    folder = write_folder(
        tmp_path, byte_level_tokenizer(), generation_config={"eos_token_id": None}
    )
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)

    with pytest.raises(ModelError, match=complaint):
        load_text(folder)


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        load_text(tmp_path / "nowhere")
