"""The HTTP server itself: connections, disconnects, its end, and what operators look at."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from typing import Any

import httpx
import pytest

from baton.text import ModelText
from services.gateway.openai import HttpServer, app
from services.gateway.openai.app import HttpLimits
from tests.support.fake_decode import eventually
from tests.support.fake_gateway import ANSWER, FakeGateway
from tests.support.openai_door import Door, open_door, sse_events

BODY: dict[str, Any] = {"prompt": "hello", "max_tokens": 100}


def raw_request(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    return (
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content)
    ) + content


async def connect(door: Door) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = door.server.address.split(":")
    return await asyncio.open_connection(host, int(port))


async def test_every_accepted_socket_sends_at_once(toy_text: ModelText) -> None:
    async with open_door(FakeGateway(toy_text)) as door:
        await door.http.get("/health")

        # Through uvicorn to the sockets, since a client cannot see this option of its peer.
        accepted = [
            connection.transport.get_extra_info("socket")
            for connection in door.server._server.server_state.connections
        ]

        assert len(accepted) == 1
        assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


async def test_a_token_goes_out_before_the_next_one_is_there(toy_text: ModelText) -> None:
    gateway = FakeGateway(toy_text, gate_at=1)
    body = {**BODY, "stream": True}
    async with (
        open_door(gateway) as door,
        door.http.stream("POST", "/v1/completions", json=body) as response,
    ):
        lines = response.aiter_lines()
        first = json.loads((await anext(lines)).removeprefix("data: "))
        assert first["choices"][0]["text"] == "The"
        assert gateway.num_chunks == 1

        gateway.gate.set()
        rest = [line async for line in lines if line]

    assert rest[-1] == "data: [DONE]"


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("gate_at", [0, 1])
async def test_a_client_that_leaves_ends_its_request(
    toy_text: ModelText, is_stream: bool, gate_at: int
) -> None:
    gateway = FakeGateway(toy_text, gate_at=gate_at)
    async with open_door(gateway) as door:
        _, writer = await connect(door)
        writer.write(raw_request({**BODY, "stream": is_stream, "n": 2}))
        await eventually(lambda: gateway.num_running == 1 and gateway.num_chunks == gate_at)

        writer.close()

        await eventually(lambda: gateway.num_running == 0, timeout=1)
        assert gateway.num_cancelled == 1


async def test_a_client_that_leaves_ends_all_its_prompts(toy_text: ModelText) -> None:
    gateway = FakeGateway(toy_text, gate_at=0)
    async with open_door(gateway) as door:
        _, writer = await connect(door)
        writer.write(raw_request({**BODY, "prompt": ["a", "b", "c"]}))
        await eventually(lambda: gateway.num_running == 3)

        writer.close()

        await eventually(lambda: gateway.num_cancelled == 3, timeout=1)


async def test_a_connection_serves_one_answer_after_the_other(toy_text: ModelText) -> None:
    async with open_door(FakeGateway(toy_text)) as door:
        for is_stream in (True, False, True):
            response = await door.http.post("/v1/completions", json={**BODY, "stream": is_stream})
            assert response.status_code == 200

        assert len(door.server._server.server_state.connections) == 1


async def test_draining_lets_answers_end(toy_text: ModelText) -> None:
    gateway = FakeGateway(toy_text, gate_at=1)
    async with open_door(gateway) as door:
        answer = asyncio.create_task(
            door.http.post("/v1/completions", json={**BODY, "stream": True})
        )
        await eventually(lambda: gateway.num_chunks == 1)
        draining = asyncio.create_task(door.server.drain())
        await eventually(lambda: not is_listening(door))
        assert not draining.done()

        gateway.gate.set()

        assert sse_events((await answer).text)[-1] == "[DONE]"
        await asyncio.wait_for(draining, 2)


async def test_leaving_serves_the_connections_that_wait_and_takes_no_more(
    toy_text: ModelText,
) -> None:
    async with open_door(FakeGateway(toy_text)) as door:
        host, port = door.server.address.split(":")
        # The kernel completes these while the loop stands still: nobody has accepted them.
        waiting = [socket.create_connection((host, int(port))) for _ in range(3)]
        waiting[0].sendall(raw_request(BODY))

        await door.server.leave()

        assert not is_listening(door)
        for number, connection in enumerate(waiting):
            if number:
                connection.sendall(raw_request(BODY))
            connection.settimeout(5)
            assert (await asyncio.to_thread(connection.recv, 64)).startswith(b"HTTP/1.1 200")
            connection.close()
        await asyncio.wait_for(door.server.drain(), 2)


async def test_while_leaving_each_answer_is_the_last_of_its_connection(
    toy_text: ModelText,
) -> None:
    is_leaving = False
    server = HttpServer(app(FakeGateway(toy_text), None, lambda: is_leaving), "127.0.0.1:0")
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False) as http:
        before = await http.post("/v1/completions", json=BODY)
        is_leaving = True
        after = await http.post("/v1/completions", json=BODY)
    await server.stop()

    assert before.status_code == after.status_code == 200
    assert "connection" not in before.headers
    assert after.headers["connection"] == "close"


async def test_an_address_is_shared_only_among_those_that_share(toy_text: ModelText) -> None:
    door = app(FakeGateway(toy_text))
    first = HttpServer(door, "127.0.0.1:0", is_shared=True)
    await first.start()
    second = HttpServer(door, first.address, is_shared=True)
    await second.start()

    with pytest.raises(OSError, match=f"cannot listen on {first.address}: Address already in use"):
        await HttpServer(door, first.address).start()

    await first.stop()
    await second.stop()


@pytest.mark.parametrize("is_stream", [True, False])
async def test_stopping_ends_answers_with_an_error(toy_text: ModelText, is_stream: bool) -> None:
    gateway = FakeGateway(toy_text, gate_at=1)
    async with open_door(gateway) as door:
        answer = asyncio.create_task(
            door.http.post("/v1/completions", json={**BODY, "stream": is_stream})
        )
        await eventually(lambda: gateway.num_chunks == 1)

        await asyncio.wait_for(door.server.stop(), 2)

        response = await answer
        assert response.status_code == (200 if is_stream else 503)
        last = sse_events(response.text)[-1] if is_stream else response.text
        assert json.loads(last)["error"]["message"] == "This gateway is shutting down."
        assert gateway.num_cancelled == 1


async def test_stopping_does_not_wait_for_a_client_that_sends_or_reads_nothing(
    toy_text: ModelText,
) -> None:
    async with open_door(FakeGateway(toy_text)) as door:
        _, idle = await connect(door)
        _, half = await connect(door)
        half.write(raw_request(BODY)[:-5])
        await eventually(lambda: len(door.server._server.server_state.tasks) == 1)

        await asyncio.wait_for(door.server.stop(), 2)

        idle.close()
        half.close()


def is_listening(door: Door) -> bool:
    host, port = door.server.address.split(":")
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, int(port))) == 0


async def test_a_taken_address_is_named(toy_text: ModelText) -> None:
    async with open_door(FakeGateway(toy_text)) as door:
        second = HttpServer(app(door.gateway), door.server.address)

        with pytest.raises(OSError, match=f"cannot listen on {door.server.address}"):
            await second.start()


async def test_signals_stay_with_the_process(toy_text: ModelText) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async with open_door(FakeGateway(toy_text)):
        during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    assert during == before


async def test_models_are_listed(toy_text: ModelText) -> None:
    async with open_door(FakeGateway(toy_text, names=["toy", "org/other"])) as door:
        models = await door.client.models.list()
        one = await door.client.models.retrieve("org/other")

    assert [model.id for model in models.data] == ["toy", "org/other"]
    assert (one.id, one.created, one.owned_by) == ("org/other", 1_700_000_000, "baton")


async def test_health_follows_the_models(toy_text: ModelText) -> None:
    gateway = FakeGateway(toy_text, staleness_s=1.5)
    async with open_door(gateway) as door:
        healthy = await door.http.get("/health")
        gateway.names.clear()
        ill = await door.http.get("/health")
        refused = await door.http.post("/v1/completions", json=BODY)

    assert (healthy.status_code, healthy.json()["status"]) == (200, "ok")
    assert healthy.json()["registry_staleness_seconds"] == 1.5
    assert ill.status_code == 503
    assert ill.json()["reason"] == "no live decode worker serves a model"
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")


async def test_health_fails_while_draining(toy_text: ModelText) -> None:
    server = HttpServer(app(FakeGateway(toy_text), is_draining=lambda: True), "127.0.0.1:0")
    await server.start()
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.get(f"http://{server.address}/health")
    await server.stop()

    assert (response.status_code, response.json()["reason"]) == (503, "shutting down")


async def test_metrics_count_answers_by_route_and_status(toy_text: ModelText) -> None:
    async with open_door(FakeGateway(toy_text)) as door:
        await door.http.get("/v1/models/nothing/at/all")
        metrics = (await door.http.get("/metrics")).text

    sample = 'baton_gateway_http_answers_total{route="/v1/models/{model}",status="404"}'
    assert sample in metrics
    assert "nothing/at/all" not in metrics


@pytest.mark.parametrize(
    ("given", "status"), [("my-id.1", 200), ("x" * 128, 200), ("x" * 129, 400), ("two words", 400)]
)
async def test_a_request_id_comes_back(toy_text: ModelText, given: str, status: int) -> None:
    async with open_door(FakeGateway(toy_text)) as door:
        response = await door.http.post(
            "/v1/completions", json=BODY, headers={"x-request-id": given}
        )

    assert response.status_code == status
    assert response.headers["x-request-id"] == given[:128]
    if status == 200:
        assert response.json()["id"] == f"cmpl-{given}"
    else:
        assert response.json()["error"]["param"] == "x-request-id"


async def test_a_request_without_an_id_is_given_one(toy_text: ModelText) -> None:
    async with open_door(FakeGateway(toy_text)) as door:
        response = await door.http.post("/v1/completions", json=BODY)
        missing = await door.http.get("/nothing")

    assert response.json()["id"] == f"cmpl-{response.headers['x-request-id']}"
    assert response.json()["choices"][0]["text"] == ANSWER
    assert missing.headers["x-request-id"]


async def test_a_client_that_reads_nothing_is_dropped_when_its_time_is_over(
    toy_text: ModelText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.openai.answer.READING_SECONDS", 0.2)
    monkeypatch.setattr("services.gateway.openai.connection.LINGER_SECONDS", 0.2)
    gateway = FakeGateway(toy_text, answer=lambda *_: "far too much " * 3000)
    async with open_door(gateway, HttpLimits(max_timeout_s=0.2)) as door:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            host, port = door.server.address.split(":")
            await loop.sock_connect(client, (host, int(port)))
            body = {"prompt": ["a"] * 128, "max_tokens": 250, "stream": True}
            await loop.sock_sendall(client, raw_request(body))
            await eventually(lambda: gateway.num_running > 0)

            await eventually(lambda: gateway.num_running == 0)
            assert gateway.num_cancelled > 0
            await eventually(lambda: not door.server._server.server_state.connections)
