"""The helper that cluster tests stand on: processes that answer, die and come back."""

from __future__ import annotations

import pytest
from cluster import Cluster, ClusterFailed

from baton.client import Client, Final, Sampling

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def ask(cluster: Cluster) -> Final:
    with Client(cluster.address()) as client:
        prompt = [{"role": "user", "content": "What is a process? " * 8}]
        events = list(client.generate(prompt, Sampling(max_tokens=4, temperature=0)))
    assert isinstance(events[-1], Final)
    return events[-1]


def test_killed_worker_is_gone_and_serves_again_after_its_restart(start_cluster):
    cluster = start_cluster()
    before = ask(cluster)

    cluster.kill("decode-0")
    was_running = cluster.is_running("decode-0")
    cluster.restart("decode-0")
    after = ask(cluster)

    assert not was_running
    assert before.num_output_tokens == after.num_output_tokens == 4
    assert after.samples[0].decode_worker_id == "decode-0"
    assert cluster.log("decode-0").count("model loaded") == 2


def test_process_that_cannot_start_fails_with_its_last_words(start_cluster):
    with pytest.raises(ClusterFailed, match="num-blocks"):
        start_cluster(extra={"decode": ["--num-blocks=-1"]}, kvstores=0, prefill=0)
