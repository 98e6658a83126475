"""A tiny random model for guided sequences."""

from __future__ import annotations

import pytest
from checkpoints import make_checkpoint
from guided import GuidedModel


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> GuidedModel:
    """384 byte-level tokens, random weights."""
    return GuidedModel(make_checkpoint(tmp_path_factory.mktemp("models") / "tiny", "qwen3"))
