"""Redis accepts connections and answers nothing for half a minute: requests don't notice.

`BATON_REDIS_AWAY_SECONDS=63` makes it a minute.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from cluster import Cluster

from baton.client import AsyncClient, Final, Sampling
from baton.engine.model.config import read_config
from baton.registry.timing import Timing

AWAY_S = float(os.environ.get("BATON_REDIS_AWAY_SECONDS", 1.1 * Timing().stream_ttl_s))
"""Longer than the longest-lived of what could expire."""


async def ask(client: AsyncClient, prompt: list[int]) -> list[int]:
    """The tokens of one answer that ended well."""
    tokens: list[int] = []
    sampling = Sampling(max_tokens=8, temperature=0.0)
    async for event in client.generate(prompt, sampling, return_token_ids=True, timeout_s=10.0):
        if not isinstance(event, Final):
            tokens += event.token_ids
    return tokens


@pytest.mark.cluster
@pytest.mark.slow
async def test_half_a_minute_without_redis_costs_no_request(tmp_path: Path, model: Path) -> None:
    facts = read_config(model)
    ids = [n for n in range(facts.vocab_size) if n not in facts.eos_token_ids]
    prompt, num_asked = ids[:100], 0
    async with httpx.AsyncClient() as http:
        with Cluster(tmp_path, model=model, engine="echo", decode=2) as cluster:

            async def staleness_s() -> float:
                health = (await http.get(f"{cluster.http_url()}/health")).json()
                assert health["status"] == "ok"
                return float(health["registry_staleness_seconds"])

            async with AsyncClient(cluster.address()) as client:
                cluster.pause("redis")
                while await staleness_s() < AWAY_S:
                    assert await ask(client, prompt) == prompt[:8]
                    num_asked += 1
                cluster.resume("redis")
                while await staleness_s() > 1.0:
                    assert await ask(client, prompt) == prompt[:8]
            log = cluster.log("gateway-0")

    assert num_asked > 100
    assert "redis is away" in log
    assert "redis is back" in log
    assert "worker is down" not in log
