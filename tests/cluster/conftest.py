"""Whole clusters of real processes with a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import make_checkpoint
from cluster import Cluster
from otlp_sink import OtlpSink


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A folder of random weights; its chat template and tokeniser are real."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny", "qwen3")


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    """Where the module's cluster sends its traces."""
    with OtlpSink() as sink:
        yield sink


@pytest.fixture(scope="module")
def cluster(model, sink, tmp_path_factory) -> Iterator[Cluster]:
    """One of each process, for tests that leave them as they were."""
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder, model=model, environment=sink.environment) as cluster:
        yield cluster
