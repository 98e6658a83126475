"""Overload on real processes: who is served, in which order, and what the others are told."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from exposition import sample_sum

from baton.client import AsyncClient, Chunk, Sampling, Slo
from baton.errors import BatonError, DeadlineExceeded, Overloaded
from bench.admission.load import Client, poisson

pytestmark = pytest.mark.cluster

SLOTS = 4
FLAGS = {
    "gateway": [f"--worker-sequences={SLOTS}", "--max-requests=4096", "--target-ttft-seconds=0"],
}
SAMPLING = Sampling(max_tokens=8, ignore_eos=True)
"""About a tenth of a second of an emulated step's time each, four at a time."""


@pytest.fixture(scope="module")
def busy(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One gateway before one worker that takes its time."""
    folder = tmp_path_factory.mktemp("busy")
    counts = {"prefill": 0, "kvstores": 0}
    with Cluster(folder, model=model, engine="emulated", extra=FLAGS, **counts) as cluster:
        yield cluster


_numbers = itertools.count()


def prompt(length: int = 200) -> list[int]:
    """Random tokens that nobody has asked for before."""
    return random.Random(next(_numbers)).choices(range(10, 250), k=length)


class Crowd:
    """Requests on one session, and the order of their ends."""

    def __init__(self, session) -> None:
        self._session = session
        self._names: dict[int, str] = {}
        self.ended: list[str] = []
        self.errors: dict[str, BatonError] = {}

    def send(self, name: str, count: int = 1, **options) -> None:
        """So many requests under one name."""
        for _ in range(count):
            handle = self._session.submit(prompt(), SAMPLING, **options)
            self._names[handle] = name

    async def run(self) -> None:
        """Until all have ended."""
        async for handle, event in self._session.events():
            if isinstance(event, Chunk):
                continue
            self.ended.append(self._names[handle])
            if isinstance(event, BatonError):
                self.errors[self._names[handle]] = event


async def test_a_tenant_that_asks_nine_times_as_often_gets_no_more_than_the_other(busy):
    async with AsyncClient(busy.address()) as client, client.session() as session:
        crowd = Crowd(session)
        crowd.send("many", 90, tenant="many")
        crowd.send("few", 10, tenant="few")
        await crowd.run()

    assert not crowd.errors
    last_of_few = len(crowd.ended) - 1 - crowd.ended[::-1].index("few")
    served = crowd.ended[: last_of_few + 1]
    # As many of the one as of the other, beside those that were in before both waited.
    assert served.count("few") == 10
    assert served.count("many") <= 10 + 3 * SLOTS


async def test_an_urgent_request_overtakes_all_that_wait(busy):
    async with AsyncClient(busy.address()) as client, client.session() as session:
        crowd = Crowd(session)
        crowd.send("plain", 40)
        crowd.send("urgent", priority=10)
        await crowd.run()

    assert not crowd.errors
    assert crowd.ended.index("urgent") <= 3 * SLOTS


async def test_a_deadline_in_line_ends_a_request_by_its_name_and_the_others_go_on(busy):
    async with AsyncClient(busy.address()) as client, client.session() as session:
        crowd = Crowd(session)
        crowd.send("plain", 40)
        crowd.send("hasty", timeout_s=0.2, priority=-1)
        await crowd.run()

    assert isinstance(crowd.errors.pop("hasty"), DeadlineExceeded | Overloaded)
    assert not crowd.errors
    assert crowd.ended.count("plain") == 40


async def test_what_would_be_late_is_told_when_to_come_back_and_reaches_no_engine(busy):
    """Over HTTP and gRPC; a stream that waits stays open meanwhile."""
    before = sequences(busy)
    async with AsyncClient(busy.address()) as client, client.session() as session:
        crowd = Crowd(session)
        crowd.send("plain", 60)
        running = asyncio.create_task(crowd.run())
        while len(crowd.ended) < 10:  # by then it is known how fast the line gets shorter
            await asyncio.sleep(0.01)
        answer = await asyncio.to_thread(ask, busy, 50)
        with pytest.raises(Overloaded) as refused:
            async for _ in client.generate(prompt(), SAMPLING, slo=Slo(target_ttft_ms=50)):
                pass
        await running

    code, headers, body = answer
    assert code == 429
    assert int(headers["retry-after"]) >= 1
    assert int(headers["retry-after-ms"]) > 0
    assert body["error"]["code"] == "overloaded"
    assert refused.value.retry_after_s
    assert not crowd.errors
    assert sequences(busy) - before == 60


async def test_more_than_can_be_done_leaves_what_is_done_as_it_was(model, tmp_path):
    """One and a half times saturation; how much of it is good is `bench.admission`'s to say."""
    flags = {"gateway": ["--target-ttft-seconds=1", "--max-requests=4096"]}
    counts = {"prefill": 0, "kvstores": 0}
    with Cluster(tmp_path, model=model, engine="emulated", extra=flags, **counts) as cluster:
        async with Client([cluster.address()]) as client:
            rate = await client.saturate(24, 3.0, seed=1)
            outcomes = await client.bring(poisson(1.5 * rate, 5.0, seed=2))

    assert all(outcome.is_done for outcome in outcomes)
    refused = [outcome for outcome in outcomes if outcome.error]
    assert {outcome.error for outcome in refused} <= {"OVERLOADED"}
    assert all(outcome.retry_after_s for outcome in refused)
    # Half of saturation at least: far below what is measured on a quiet machine.
    assert len(outcomes) - len(refused) >= 0.5 * rate * 4.0


def sequences(cluster: Cluster) -> int:
    """Sequences that the decode worker has ended, whatever the reason."""
    return round(sample_sum(cluster.metrics_url("decode-0"), "baton_sequences_total"))


def ask(cluster: Cluster, target_ms: int) -> tuple[int, dict[str, str], dict]:
    """A streamed completion over HTTP: status, headers and body of a refusal."""
    body = {"model": "", "prompt": prompt(), "max_tokens": 8, "stream": True}
    headers = {"content-type": "application/json", "x-baton-target-ttft-ms": str(target_ms)}
    request = urllib.request.Request(
        f"{cluster.http_url()}/v1/completions", json.dumps(body).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, dict(response.headers), {}
    except urllib.error.HTTPError as refusal:
        return refusal.code, dict(refusal.headers), json.loads(refusal.read())
