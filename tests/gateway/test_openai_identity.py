"""Whom a request is for, what is hoped for and how it may be sent again: in HTTP headers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from baton.request import FinishReason
from services.gateway import identity
from services.gateway.types import NO_HINTS, SloHints
from tests.support.gateway_world import World
from tests.support.openai_door import Door, open_door

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/responses")
HEADERS = {
    "x-baton-tenant": "acme",
    "x-baton-target-ttft-ms": "250",
    "x-baton-target-itl-ms": "30",
    "x-baton-expected-output-tokens": "77",
}


def body_for(path: str, prompt: str = "hello") -> dict[str, Any]:
    if path.endswith("chat/completions"):
        return {"messages": [{"role": "user", "content": prompt}], "cache_salt": "s"}
    return {"input" if path.endswith("responses") else "prompt": prompt, "cache_salt": "s"}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", PATHS)
async def test_tenant_and_hints_reach_the_command(door: Door, path: str) -> None:
    answer = await door.http.post(path, json=body_for(path), headers=HEADERS)
    plain = await door.http.post(path, json=body_for(path))

    assert (answer.status_code, plain.status_code) == (200, 200)
    hinted, other = door.gateway.commands
    assert (hinted.tenant, hinted.slo) == ("acme", SloHints(250, 30, 77))
    assert hinted.cache_salt == identity.cache_salt("acme", "s")
    assert (other.tenant, other.slo, other.cache_salt) == ("", NO_HINTS, "s")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-baton-tenant", "two words"),
        ("x-baton-tenant", "x" * 129),
        ("x-baton-target-ttft-ms", "soon"),
        ("x-baton-target-ttft-ms", "-1"),
        ("x-baton-target-ttft-ms", "1.5"),
        ("x-baton-target-ttft-ms", ""),
        ("x-baton-target-ttft-ms", "3600001"),
        ("x-baton-target-itl-ms", "60001"),
        ("x-baton-target-itl-ms", "9" * 11),
        ("x-baton-expected-output-tokens", "1000001"),
        ("Idempotency-Key", "x" * 129),
        ("Idempotency-Key", "a\tb"),
    ],
)
async def test_a_bad_header_is_refused_by_name(
    door: Door, path: str, header: str, value: str
) -> None:
    answer = await door.http.post(path, json=body_for(path), headers={header: value})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == header
    assert header in answer.json()["error"]["message"]
    assert door.gateway.commands == []


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("path", PATHS)
async def test_a_key_decides_the_seed_where_none_is_given(door: Door, path: str) -> None:
    keyed = {"Idempotency-Key": "order-7", "x-baton-tenant": "acme"}

    for headers, extra in ((keyed, {}), (keyed, {"seed": 5}), ({"x-request-id": "order-7"}, {})):
        await door.http.post(path, json={**body_for(path), **extra}, headers=headers)

    derived, given, drawn = [command.sampling.seed for command in door.gateway.commands]
    assert (derived, given) == (identity.seed("acme", "order-7"), 5)
    assert drawn != identity.seed("", "order-7")
    assert door.gateway.commands[0].retry_key == "order-7"


@pytest.mark.asyncio(loop_scope="module")
async def test_each_prompt_of_a_list_has_a_key_of_its_own(door: Door) -> None:
    body = {"prompt": ["a", "b"]}

    await door.http.post("/v1/completions", json=body, headers={"Idempotency-Key": "k"})

    assert [command.retry_key for command in door.gateway.commands] == ["k", "k-1"]


@pytest.fixture
async def core_door(world: World) -> AsyncIterator[Door]:
    """The door in front of a real core, whose worker does as the test says."""
    await world.add()
    gateway: Any = world.core
    async with open_door(gateway) as door:
        yield door


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_retry_takes_over_from_the_call_in_flight(
    world: World, core_door: Door, is_stream: bool
) -> None:
    worker = world.workers[0]
    sent = {
        "json": {"prompt": "Hello", "stream": is_stream},
        "headers": {"Idempotency-Key": "order-7"},
    }
    first = asyncio.create_task(core_door.http.post("/v1/completions", **sent))
    abandoned = await worker.submitted()
    second = asyncio.create_task(core_door.http.post("/v1/completions", **sent))
    retried = await worker.submitted(2)
    await retried.send(world.ids("fox"), end=FinishReason.LENGTH)

    ended = await first
    answer = await second

    assert ended.status_code == 409
    assert ended.json()["error"]["code"] == "superseded"
    assert (answer.status_code, "fox" in answer.text) == (200, True)
    assert retried.message.sampling.seed == abandoned.message.sampling.seed
    await worker.cancelled(abandoned)


async def test_another_prompt_under_a_key_in_flight_is_refused(
    world: World, core_door: Door
) -> None:
    worker = world.workers[0]
    headers = {"Idempotency-Key": "order-7"}
    first = asyncio.create_task(
        core_door.http.post("/v1/completions", json={"prompt": "Hello"}, headers=headers)
    )
    running = await worker.submitted()

    refused = await core_door.http.post(
        "/v1/completions", json={"prompt": "Another"}, headers=headers
    )
    elsewhere = asyncio.create_task(
        core_door.http.post(
            "/v1/completions",
            json={"prompt": "Another"},
            headers={**headers, "x-baton-tenant": "acme"},
        )
    )
    await (await worker.submitted(2)).send(end=FinishReason.LENGTH)
    await running.send(end=FinishReason.LENGTH)

    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "already_running"
    assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert refused.json()["error"]["message"].startswith("Idempotency-Key 'order-7'")
    assert ((await first).status_code, (await elsewhere).status_code) == (200, 200)
