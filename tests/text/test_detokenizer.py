"""The incremental detokeniser against decoding everything at once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.text import Detokenizer, ModelText, load_text
from baton.text.detokenizer import IncrementalDetokenizer
from tests.support.tokenizers_made import byte_level_tokenizer, metaspace_tokenizer, write_folder

KINDS = ("byte_level", "byte_level_windowed", "metaspace_strip", "metaspace_drop")


@cache
def model_text(kind: str) -> ModelText:
    match kind:
        case "byte_level" | "byte_level_windowed":
            tokenizer = byte_level_tokenizer()
        case "metaspace_strip":
            tokenizer = metaspace_tokenizer("strip")
        case _:
            tokenizer = metaspace_tokenizer("drop")
    with TemporaryDirectory() as folder:
        return load_text(write_folder(Path(folder), tokenizer))


def detokenizer_of(text: ModelText, kind: str, skip: bool) -> Detokenizer:
    """The model's own, or the one for all vocabularies on one that has a faster one."""
    if kind == "byte_level_windowed":
        return IncrementalDetokenizer(text, skip_special_tokens=skip)
    return text.detokenizer(skip_special_tokens=skip)


def pieces_of(kind: str, pushes: list[list[int]], skip: bool = True) -> list[str]:
    detokenizer = detokenizer_of(model_text(kind), kind, skip)
    pieces = [detokenizer.push(token_ids) for token_ids in pushes]
    return [*pieces, detokenizer.flush()]


def cut(token_ids: list[int], lengths: list[int]) -> list[list[int]]:
    pushes, start = [], 0
    for length in lengths:
        pushes.append(token_ids[start : start + length])
        start += length
    return [*pushes, token_ids[start:]]


FRAGMENTS = ["hello", " ", "world", " a", "é", "😀", "👩\u200d🚀", "世", "ᚠᚢ", "\n", "\ufffd", "  "]
texts = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
    ),
    max_size=12,
).map("".join)
push_lengths = st.one_of(st.just([1] * 200), st.lists(st.integers(0, 4), max_size=40))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(words=texts, lengths=push_lengths)
def test_pieces_of_any_text_add_up_to_the_whole(kind: str, words: str, lengths: list[int]) -> None:
    text = model_text(kind)
    token_ids = text.encode(words)

    pieces = pieces_of(kind, cut(token_ids, lengths))

    assert "".join(pieces) == text.decode(token_ids)
    if "\ufffd" not in words:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip=st.booleans(), lengths=push_lengths)
def test_pieces_of_any_tokens_add_up_to_the_whole(
    kind: str, data: st.DataObject, skip: bool, lengths: list[int]
) -> None:
    text = model_text(kind)
    common = text.encode(" hello world 😀 é 世") + list(text.eos_token_ids)
    # A few ids beyond the vocabulary, as models with padded embeddings can draw.
    any_id = st.one_of(st.sampled_from(common), st.integers(0, text.vocab_size + 3))
    token_ids = data.draw(st.lists(any_id, max_size=60))

    pieces = pieces_of(kind, cut(token_ids, lengths), skip)

    assert "".join(pieces) == text.decode(token_ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_split_across_tokens_comes_out_once_it_is_complete(kind: str) -> None:
    text = model_text(kind)
    token_ids = text.encode("🧭a", add_special_tokens=False)
    assert len(token_ids) >= 4

    pieces = pieces_of(kind, [[token_id] for token_id in token_ids])

    assert [piece for piece in pieces if piece] in (["🧭", "a"], ["🧭a"])


def test_text_before_a_broken_character_is_not_held() -> None:
    text = model_text("byte_level")
    token_ids = text.encode("fox 🧭", add_special_tokens=False)
    detokenizer = text.detokenizer()

    assert detokenizer.push(token_ids[:-1]) == "fox "
    assert detokenizer.push(token_ids[-1:]) == "🧭"


@pytest.mark.parametrize("kind", KINDS)
def test_broken_bytes_are_replaced_at_flush_only(kind: str) -> None:
    text = model_text(kind)
    token_ids = text.encode("a🧭", add_special_tokens=False)[:-1]

    *pieces, last = pieces_of(kind, [[token_id] for token_id in token_ids])

    assert "".join(pieces) == "a"
    assert last == text.decode(token_ids)[1:]
    assert "\ufffd" in last


@pytest.mark.parametrize("kind", ["metaspace_strip", "metaspace_drop"])
def test_a_long_run_of_byte_tokens_streams_by_the_character(kind: str) -> None:
    text = model_text(kind)
    words = "ᚠᚢᚦᚨᚱᚲ" * 20
    token_ids = text.encode(words, add_special_tokens=False)

    pieces = pieces_of(kind, [[token_id] for token_id in token_ids])

    assert "".join(pieces) == words
    assert max(len(piece) for piece in pieces) < 30
    assert pieces[-1] == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoiler", ["ß", "<special>"])
def test_the_window_stays_small_whatever_comes(
    kind: str, spoiler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = model_text(kind)
    continuation = next(
        token_id for token_id in range(text.vocab_size) if text.token_bytes(token_id) == b"\x80"
    )
    token_id = continuation if spoiler == "ß" else text.eos_token_ids[0]
    decoded_lens: list[int] = []
    plain_decode = text.decode
    monkeypatch.setattr(
        text,
        "decode",
        lambda ids, skip_special_tokens=True: (
            decoded_lens.append(len(ids)) or plain_decode(ids, skip_special_tokens)
        ),
    )

    pieces_of(kind, [[token_id]] * 1000)

    assert sum(decoded_lens) < 1000 * 200
    assert max(decoded_lens[:-1], default=0) <= 200


@pytest.mark.parametrize("kind", ["byte_level", "byte_level_windowed"])
@pytest.mark.parametrize("num_broken", range(58, 70))
def test_a_window_cut_by_force_loses_no_character(kind: str, num_broken: int) -> None:
    text = model_text(kind)
    id_of = {text.token_bytes(token_id): token_id for token_id in range(256)}
    spoken = b"\x80" * num_broken + "😀a".encode() + b"\xf0\x9f" * 70 + "😀".encode()
    token_ids = [id_of[bytes([byte])] for byte in spoken]

    pieces = pieces_of(kind, [[token_id] for token_id in token_ids])

    assert "".join(pieces) == text.decode(token_ids)


def test_special_tokens_are_shown_when_asked_for() -> None:
    text = model_text("byte_level")
    token_ids = text.encode("<|im_start|>fox<|im_end|>")

    assert "".join(pieces_of("byte_level", [token_ids])) == "fox"
    assert "".join(pieces_of("byte_level", [token_ids], skip=False)) == "<|im_start|>fox<|im_end|>"
