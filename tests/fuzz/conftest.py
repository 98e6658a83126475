"""One cluster on echo engines for everything that is hostile; nobody may leave a mark on it."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from tests.support.checkpoints import make_checkpoint
from tests.support.cluster import Cluster
from tests.support.raw_http import RawClient, request

RECEIVE_SECONDS = 2.0
USUAL_LIMIT = 1024
"""Of open files, where nobody has raised it."""


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("victim")
    model = make_checkpoint(folder / "tiny", "qwen3")
    flags = {"gateway": [f"--http-receive-seconds={RECEIVE_SECONDS:g}"]}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL_LIMIT, hard))
    cluster = Cluster(folder, model=model, engine="echo", extra=flags, prefill=0, kvstores=0)
    try:
        cluster.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
        yield cluster
    finally:
        cluster.stop()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def url(victim: Cluster) -> Iterator[str]:
    """Its HTTP door, which is as good as new behind the test."""
    yield victim.http_url()
    assert all(victim.is_running(name) for name in victim.names)
    with RawClient(victim.http_url()) as client:
        answer = client.send(request(body={"prompt": "hello", "max_tokens": 4})).reply()
    assert answer.json()["choices"][0]["text"] == "hello"
