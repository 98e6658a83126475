"""The encoder uses the fast library exactly as long as that agrees with the model's tokenizer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.text import ModelText, load_text
from baton.text.encoder import FIRST_PROMPTS, Encoder
from baton.tokens import TokenIds
from tests.support.tokenizers_made import byte_level_tokenizer, metaspace_tokenizer, write_folder

KINDS = {"byte_level": byte_level_tokenizer, "metaspace": metaspace_tokenizer}


@cache
def model_text(kind: str) -> ModelText:
    with TemporaryDirectory() as folder:
        return load_text(write_folder(Path(folder), KINDS[kind]()))


class Liar:
    """A fast library that gives one token too many for texts with a given word."""

    def __init__(self, encoder: Encoder, word: str) -> None:
        self._fast = encoder._fast
        self._word = word

    def encode_batch_flat(self, texts: list[str], special: bool) -> tuple[bytes, bytes]:
        packed, offsets = self._fast.encode_batch_flat(texts, special)
        return (packed + packed[-4:] if self._word in texts[0] else packed), offsets


def fast_encoder() -> Encoder:
    tokenizer = byte_level_tokenizer()
    encoder = Encoder(tokenizer, tokenizer.to_str())
    assert encoder.name == "fastokens", encoder.reason
    return encoder


@pytest.mark.parametrize("kind", KINDS)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.booleans())
def test_tokens_are_those_of_the_tokenizers_library(kind: str, words: str, special: bool) -> None:
    text = model_text(kind)

    exact = text._tokenizer.encode(words, add_special_tokens=special).ids

    assert text.encode_packed(words, special) == exact
    assert text.encode(words, special) == exact


def test_a_tokenizer_that_the_fast_library_cannot_load_still_works() -> None:
    tokenizer = byte_level_tokenizer()

    encoder = Encoder(tokenizer, "{}")

    assert encoder.name == "tokenizers"
    assert "fastokens cannot load" in encoder.reason
    assert encoder.encode("Hello", False) == tokenizer.encode("Hello", add_special_tokens=False).ids


def test_a_difference_on_a_live_prompt_ends_the_fast_library_s_use() -> None:
    encoder = fast_encoder()
    honest = TokenIds.of(encoder.encode("the baton", False))
    encoder._fast = Liar(encoder, "baton")

    assert encoder.encode("hello", False) == fast_encoder().encode("hello", False)
    assert encoder.name == "fastokens"
    assert encoder.encode("the baton", False) == honest
    assert encoder.name == "tokenizers"
    assert "live prompt" in encoder.reason
    assert FIRST_PROMPTS > 2


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        fast_encoder().encode("\ud800", False)
