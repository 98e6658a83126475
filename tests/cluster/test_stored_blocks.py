"""What only kvstores hold is known to the gateway, weighed, and fetched: with real processes."""

from __future__ import annotations

import random
import time
import urllib.request

import grpc
import pytest
from cluster import Cluster

from baton.client import AsyncClient, Sampling
from baton.v1 import explain_pb2 as pb
from baton.v1 import explain_pb2_grpc as stubs

pytestmark = pytest.mark.cluster

NUM_TOKENS = 320
NUM_BLOCKS = NUM_TOKENS // 16


def wait_until_known(cluster: Cluster, num_blocks: int) -> None:
    """Until the gateway knows that so many blocks are stored. Raises TimeoutError."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with urllib.request.urlopen(cluster.metrics_url("gateway-0"), timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        if any(line == f"baton_gateway_stored_blocks {float(num_blocks)}" for line in lines):
            return
        time.sleep(0.05)
    raise TimeoutError(f"the gateway does not know of {num_blocks} stored blocks")


def wait_until_met_again(cluster: Cluster, worker_id: str) -> None:
    """Until the gateway has dropped what the worker's last process cached. Raises TimeoutError."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        lines = cluster.log("gateway-0").splitlines()
        ups = [
            line for line in lines if "worker is up" in line and f"worker_id={worker_id}" in line
        ]
        if len(ups) > 1:
            return
        time.sleep(0.05)
    raise TimeoutError(f"the gateway has not met the new {worker_id}")


async def explain(cluster: Cluster, request_id: str) -> pb.ExplainResponse:
    """What `baton explain` asks for."""
    async with grpc.aio.insecure_channel(cluster.address()) as channel:
        return await stubs.ExplainServiceStub(channel).Explain(
            pb.ExplainRequest(request_id=request_id), timeout=10
        )


async def test_a_prompt_that_only_stores_hold_is_routed_to_be_fetched(tmp_path):
    source = random.Random(7)
    prompt = [source.randrange(300, 2000) for _ in range(NUM_TOKENS + 5)]
    sampling = Sampling(max_tokens=2, temperature=0.0, ignore_eos=True)
    counts = {"prefill": 0, "decode": 1, "kvstores": 2}
    with Cluster(tmp_path, engine="echo", **counts) as cluster:
        async with AsyncClient(cluster.address()) as client:
            options = {"request_id": "first", "return_token_ids": True, "timeout_s": 30.0}
            first = [event async for event in client.generate(prompt, sampling, **options)]
            wait_until_known(cluster, NUM_BLOCKS)
            cluster.kill("decode-0")
            cluster.restart("decode-0")  # it caches nothing now
            wait_until_met_again(cluster, "decode-0")
            options["request_id"] = "second"
            second = [event async for event in client.generate(prompt, sampling, **options)]
        stories = [await explain(cluster, name) for name in ("first", "second")]

    chosen = [s.decisions[-1].options[s.decisions[-1].chosen_index] for s in stories]
    assert [option.fetched_token_count for option in chosen] == [0, NUM_TOKENS]
    assert chosen[1].computed_token_count == 5
    timings = [events[-1].samples[0].timings for events in (first, second)]
    assert [timing.fetched_token_count for timing in timings] == [0, NUM_TOKENS]
