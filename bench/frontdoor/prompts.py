"""Text prompts of an exact length in tokens, none like another from the first block on."""

from __future__ import annotations

import json
import random
import re
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from bench.failure import BenchFailed
from bench.frontdoor.messages import Shape

_WORD = re.compile("\u0120[a-z]{2,}")
"""A space and a word, as byte-level vocabularies write it."""
_SHARED_SEED = 7
_FEWEST_WORDS = 500


def make_prompts(tokenizer: Path, shape: Shape, count: int, seed: int) -> list[str]:
    """Random words that are one token each. Raises `BenchFailed` where they are not."""
    words = _words(tokenizer)
    shared = "".join(random.Random(_SHARED_SEED).choices(words, k=shape.shared_len))
    source = random.Random(seed)
    own_len = shape.prompt_len - shape.shared_len
    prompts = [shared + "".join(source.choices(words, k=own_len)) for _ in range(count)]
    found = len(_load(tokenizer).encode(prompts[0]).ids)
    if found != shape.prompt_len:
        raise BenchFailed(f"a prompt has {found} tokens, {shape.prompt_len} were wanted.")
    return prompts


def token_ids(tokenizer: Path, prompt: str) -> list[int]:
    """What a gateway would make of it."""
    return list(_load(tokenizer).encode(prompt).ids)


@lru_cache(maxsize=1)
def _load(tokenizer: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer))


@lru_cache(maxsize=1)
def _words(tokenizer: Path) -> list[str]:
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    words = [f" {word[1:]}" for word in vocabulary if _WORD.fullmatch(word)]
    # A merge table need not lead to every entry of its vocabulary.
    encoded = _load(tokenizer).encode_batch(words)
    words = [word for word, found in zip(words, encoded, strict=True) if len(found.ids) == 1]
    if len(words) < _FEWEST_WORDS:
        raise BenchFailed(f"{tokenizer} has {len(words)} whole words, {_FEWEST_WORDS} are needed.")
    return words
