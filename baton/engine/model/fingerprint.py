"""Names a model by what it computes: two folders with one fingerprint may exchange KV blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

from baton.engine.model.config import ModelConfig

_WHOLE_BYTES = 64 << 20
_SAMPLE_BYTES = 1 << 20
_NUM_SAMPLES = 64
_IRRELEVANT = ("context_len", "dtype", "eos_token_ids", "generation_defaults")


def fingerprint(config: ModelConfig, files: Iterable[Path]) -> str:
    """BLAKE2b-128 over the facts that change a computation and over the weight files' bytes.

    A file up to 64 MB is read whole. Of a larger one its size, its header (names, dtypes, shapes)
    and 64 megabytes spread over it are read: start-up stays fast, but a change between the samples
    goes unnoticed.
    """
    digest = hashlib.blake2b(digest_size=16)
    facts = {name: value for name, value in asdict(config).items() if name not in _IRRELEVANT}
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in sorted(files, key=lambda path: path.name):
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            for part in _parts(file, size):
                digest.update(part)
    return digest.hexdigest()


def _parts(file: BinaryIO, size: int) -> Iterator[bytes]:
    if size <= _WHOLE_BYTES:
        while part := file.read(_SAMPLE_BYTES):
            yield part
        return
    header_len = int.from_bytes(file.read(8), "little")
    yield file.read(min(header_len, _WHOLE_BYTES))
    for index in range(_NUM_SAMPLES):
        file.seek((size - _SAMPLE_BYTES) * index // (_NUM_SAMPLES - 1))
        yield file.read(_SAMPLE_BYTES)
