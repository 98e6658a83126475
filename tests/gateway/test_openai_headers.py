"""Headers, comments and other things around an answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from baton.errors import WorkerLost
from baton.text import ModelText
from services.gateway.openai.app import HttpLimits
from tests.support.fake_gateway import FakeGateway
from tests.support.openai_door import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY: dict[str, Any] = {"prompt": "hello"}
PARENT = f"00-{'1' * 32}-{'2' * 16}-01"
ORIGIN = "https://app.example"


async def test_a_trace_that_comes_in_is_named_in_the_answer(door: Door) -> None:
    headers = {"traceparent": PARENT, "tracestate": "a=1,b=2"}

    traced = await door.http.post("/v1/completions", json=BODY, headers=headers)
    refused = await door.http.post("/v1/completions", json={}, headers=headers)
    plain = await door.http.post("/v1/completions", json=BODY)
    broken = await door.http.post("/v1/completions", json=BODY, headers={"traceparent": "x"})

    assert traced.headers["traceparent"] == refused.headers["traceparent"] == PARENT
    assert "traceparent" not in plain.headers
    assert broken.status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/models"])
async def test_nothing_is_compressed(door: Door, path: str) -> None:
    body = {**BODY, "stream": True} if path.endswith("completions") else None
    headers = {"accept-encoding": "gzip, br"}

    response = await door.http.request("POST" if body else "GET", path, json=body, headers=headers)

    assert "content-encoding" not in response.headers
    if body:
        assert response.headers["cache-control"] == "no-cache, no-transform"


async def test_a_silent_stream_gets_comments_and_then_its_answer(toy_text: ModelText) -> None:
    gateway = FakeGateway(toy_text, gate_at=0)
    async with open_door(gateway, HttpLimits(keepalive_s=0.02)) as door:
        body = {**BODY, "stream": True}
        async with door.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            first = [await anext(lines) for _ in range(4)]
            gateway.gate.set()
            rest = [line async for line in lines]

    assert first == [": keep-alive", "", ": keep-alive", ""]
    data = [line for line in rest if line.startswith("data: ")]
    assert data[-1] == "data: [DONE]"
    assert json.loads(data[0].removeprefix("data: "))["choices"][0]["text"]


async def test_an_error_behind_a_comment_is_an_event(toy_text: ModelText) -> None:
    gateway = FakeGateway(toy_text, gate_at=0, error=WorkerLost("gone"))
    async with open_door(gateway, HttpLimits(keepalive_s=0.02)) as door:
        body = {**BODY, "stream": True}
        async with door.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            comment = await anext(lines)
            gateway.gate.set()
            rest = [line async for line in lines if line.startswith("data: ")]

    assert (response.status_code, comment) == (200, ": keep-alive")
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["message"] == "gone"


async def test_the_official_client_reads_over_comments(toy_text: ModelText) -> None:
    gateway = FakeGateway(toy_text, gate_at=1)
    async with open_door(gateway, HttpLimits(keepalive_s=0.02)) as door:
        stream = await door.client.completions.create(model="toy", prompt="hello", stream=True)
        texts = [(await anext(stream)).choices[0].text]
        asyncio.get_running_loop().call_later(0.1, gateway.gate.set)
        texts += [chunk.choices[0].text async for chunk in stream]

    assert "".join(texts).startswith("The baton")


async def test_without_named_origins_no_page_is_let_in(door: Door) -> None:
    headers = {"origin": ORIGIN, "access-control-request-method": "POST"}

    preflight = await door.http.options("/v1/completions", headers=headers)
    answer = await door.http.post("/v1/completions", json=BODY, headers={"origin": ORIGIN})

    assert preflight.status_code == 405
    assert preflight.json()["error"]["type"] == "invalid_request_error"
    assert not any(name.startswith("access-control") for name in answer.headers)


async def test_named_origins_are_let_in_with_answers_streams_and_errors(
    toy_text: ModelText,
) -> None:
    gateway = FakeGateway(toy_text)
    preflight_headers = {"origin": ORIGIN, "access-control-request-method": "POST"}
    async with open_door(gateway, HttpLimits(cors_origins=(ORIGIN,))) as door:
        preflight = await door.http.options("/v1/completions", headers=preflight_headers)
        other = await door.http.options(
            "/v1/completions", headers={**preflight_headers, "origin": "https://evil.example"}
        )
        headers = {"origin": ORIGIN}
        answers = [
            await door.http.post("/v1/completions", json=body, headers=headers)
            for body in (BODY, {**BODY, "stream": True}, {}, {**BODY, "model": "other"})
        ]
        gateway.reset()
        gateway.error = RuntimeError("secret")
        answers.append(await door.http.post("/v1/completions", json=BODY, headers=headers))

    assert preflight.status_code == 200
    assert other.status_code == 400
    assert [answer.status_code for answer in answers] == [200, 200, 400, 404, 500]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["x-request-id"]
