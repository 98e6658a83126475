"""Clients that keep no rules of HTTP, against the OpenAI door of a real process."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.decode_client import until_free
from tests.support.exposition import sample_sum
from tests.support.fake_decode import eventually
from tests.support.raw_http import RawClient, assert_openai_error, request

pytestmark = pytest.mark.cluster

SHORT = {"prompt": "hello", "max_tokens": 4}
LONG = {"prompt": "hello", "max_tokens": 1000, "n": 128}
"""Takes two seconds or more, and is more than the buffers of a connection hold."""
HEALTH = request("GET", "/health")
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
HUGE_BYTES = 100 << 20
MB = 1 << 20
ROUTES = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/tokenize",
    "/detokenize",
    "/v1/models",
    "/v1/models/tiny",
    "/openapi.json",
    "/health",
    "/metrics",
]


def ends_free(victim: Cluster, seconds: float = 1.0) -> None:
    """Holds that every block of the decode worker comes free in time."""
    asyncio.run(until_free(victim.address("decode-0"), seconds))


def becomes_busy(victim: Cluster) -> None:
    """Waits until the decode worker has sequences."""
    url = victim.metrics_url("decode-0")
    asyncio.run(eventually(lambda: sample_sum(url, "baton_running_sequences") > 0, "busy"))


def memory(victim: Cluster) -> int:
    """Bytes that the gateway holds."""
    status = Path(f"/proc/{victim.pid('gateway-0')}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def events_of(body: bytes) -> list[bytes]:
    return [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event]


def test_a_client_that_reads_a_byte_at_a_time_holds_up_nobody(victim: Cluster, url: str) -> None:
    before = memory(victim)
    with RawClient(url, receive_buffer=4096) as slow, RawClient(url) as other:
        slow.send(request(body={**LONG, "stream": True}))
        for _ in range(20):
            assert slow.read()
            began = time.monotonic()
            assert other.send(request(body=SHORT)).reply().status == 200
            assert time.monotonic() - began < 5
        # Its tokens don't wait in the worker, and merge in the gateway.
        ends_free(victim, 30)
        assert memory(victim) - before < 48 * MB
        slow.reset()


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("behind", [b"", HEALTH], ids=["alone", "pipelined"])
def test_a_reset_cancels_the_request(
    victim: Cluster, url: str, is_stream: bool, behind: bytes
) -> None:
    with RawClient(url) as client:
        client.send(request(body={**LONG, "stream": is_stream}) + behind)
        becomes_busy(victim)

        client.reset()

        ends_free(victim)


def test_a_client_that_closes_its_side_has_left(victim: Cluster, url: str) -> None:
    with RawClient(url) as client:
        client.send(request(body=LONG))
        becomes_busy(victim)

        client.socket.shutdown(1)

        assert client.has_ended()
        ends_free(victim)


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    stream = {"prompt": "hello", "max_tokens": 300, "stream": True}
    with RawClient(url) as client:
        client.send(
            request(body=stream)
            + HEALTH
            + request(body={"prompt": "abc", "max_tokens": 3})
            + request("GET", "/nothing")
            + request(body=stream)
            + HEALTH * 50
        )
        first, health, second, missing, last = (client.reply() for _ in range(5))
        rest = [client.reply() for _ in range(50)]

    assert events_of(first.body)[-1] == events_of(last.body)[-1] == b"[DONE]"
    assert len(events_of(first.body)) > 1
    assert health.json()["status"] == "ok"
    assert second.json()["choices"][0]["text"] == "abc"
    assert assert_openai_error(missing)
    assert {reply.status for reply in rest} == {200}


def test_rubbish_behind_a_request_does_not_get_into_its_answer(victim: Cluster, url: str) -> None:
    with RawClient(url) as client:
        client.send(request(body={**LONG, "stream": True}))
        assert client.read(9) == b"HTTP/1.1 "
        client.send(b"\x00\x01rubbish\r\n\r\n")
        received = b""
        while part := client.read(65536):
            received += part

    assert b"HTTP/1.1" not in received
    ends_free(victim)


def test_a_connection_serves_two_hundred_requests(url: str) -> None:
    with RawClient(url) as client:
        for index in range(200):
            body = {**SHORT, "stream": index % 2 == 0}
            assert client.send(request(body=body)).reply().status == 200


def test_a_client_that_asks_first_is_told_to_go_on(url: str) -> None:
    whole = request(body=SHORT, expect="100-continue")
    head, body = whole.split(b"\r\n\r\n")
    with RawClient(url) as client:
        assert client.send(head + b"\r\n\r\n").reply().status == 100
        assert client.send(body).reply().status == 200


def test_a_client_that_asks_first_need_not_send_what_is_too_long(url: str) -> None:
    with RawClient(url) as client:
        head = request(expect="100-continue").replace(b"length: 0", b"length: %d" % HUGE_BYTES)
        assert assert_openai_error(client.send(head).reply())
        # Else the next request would be taken for the body.
        assert client.has_ended()


@pytest.mark.parametrize(
    "chunks",
    [
        [b"1e\r\n", b'{"prompt":"hi","max_tokens":1}\r\n', b"0\r\n\r\n"],
        [b"1\r\n{\r\n", b'1d;ext="a"\r\n"prompt":"hi","max_tokens":1}\r\n', b"000\r\n\r\n"],
        [b'1E\r\n{"prompt":"hi","max_tokens":1}\r\n0\r\nx-request-id: evil\r\n\r\n'],
    ],
    ids=["plain", "extension", "trailer"],
)
def test_bodies_may_come_in_chunks(url: str, chunks: list[bytes]) -> None:
    with RawClient(url) as client:
        reply = client.send(CHUNKED, *chunks).reply()

    assert reply.status == 200
    # A trailer is no header: what checks headers in front of the gateway has not seen it.
    assert reply.headers["x-request-id"] != "evil"


@pytest.mark.parametrize(
    "rest",
    [b"zz\r\n{}\r\n", b"-1\r\n{}\r\n", b"f" * 20 + b"\r\n{}", b"2\r\n{}}}\r\n", b"0x2\r\n{}\r\n"],
)
def test_bad_chunks_are_refused(url: str, rest: bytes) -> None:
    with RawClient(url) as client:
        assert_openai_error(client.send(CHUNKED, rest).reply())
        assert client.has_ended()


@pytest.mark.parametrize(
    "lengths",
    [
        b"content-length: -2",
        b"content-length: 2x",
        b"content-length: 2\r\ncontent-length: 3",
        b"content-length: 2\r\ntransfer-encoding: chunked",
        b"content-length: 99999999999999999999999",
    ],
)
def test_lengths_that_make_no_sense_are_refused(url: str, lengths: bytes) -> None:
    with RawClient(url) as client:
        head = b"POST /tokenize HTTP/1.1\r\nhost: x\r\n" + lengths + b"\r\n\r\n{}"
        assert_openai_error(client.send(head).reply())
        assert client.has_ended()


def test_a_length_that_is_too_small_ends_the_connection_behind_the_answer(url: str) -> None:
    body = b'{"prompt":"hi"}'
    with RawClient(url) as client:
        client.send(b"POST /tokenize HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n" + body)
        assert client.reply().status == 200
        assert_openai_error(client.send(b"}}}}").reply())
        assert client.has_ended()


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_huge_body_is_refused_before_it_is_held(
    victim: Cluster, url: str, is_chunked: bool
) -> None:
    before = memory(victim)
    part = b"x" * MB
    with RawClient(url) as client:
        if is_chunked:
            client.send(CHUNKED)
            part = b"%x\r\n%b\r\n" % (MB, part)
        else:
            client.send(request().replace(b"length: 0", b"length: %d" % HUGE_BYTES))
        client.send_all_it_takes(part, HUGE_BYTES // MB)
        reply = client.reply()

    assert reply.status == 413
    assert "8,388,608" in assert_openai_error(reply)["message"]
    assert memory(victim) - before < 32 * MB


def test_what_comes_too_slowly_is_dropped(victim: Cluster, url: str) -> None:
    half = request(body=SHORT)[:-3]
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(url)) for _ in range(5)]
        head, body, chunk, breaks, answered = clients
        head.send(b"GET /health HT")
        body.send(half)
        chunk.send(CHUNKED, b"2\r\n{")
        breaks.send(b"\r\n")
        answered.send(request().replace(b"length: 0", b"length: %d" % HUGE_BYTES))
        began = time.monotonic()
        replies = [client.reply() for client in clients]
        assert all(client.has_ended() for client in clients)

    assert [reply.status for reply in replies] == [408, 408, 408, 408, 413]
    for reply in replies:
        assert_openai_error(reply)
    assert time.monotonic() - began < 8


def test_two_thousand_idle_connections_do_not_stop_a_request(url: str) -> None:
    with ExitStack() as stack:
        for _ in range(2000):
            stack.enter_context(RawClient(url))
        with RawClient(url) as client:
            assert client.send(request(body=SHORT)).reply().status == 200


@pytest.mark.parametrize(
    "lines",
    [
        [b"x-a: " + b"a" * 65536],
        [b"x-a: " + b"a" * 1_000_000],
        [b"x-a: a"] * 20_000,
    ],
    ids=["64 KB", "1 MB", "many"],
)
def test_long_heads_are_refused(url: str, lines: list[bytes]) -> None:
    with RawClient(url) as client:
        client.send_all_it_takes(b"\r\n".join([HEALTH[:-4], *lines, b"", b""]), 1)
        assert client.reply().status == 431
        assert client.has_ended()


def test_endless_trailers_are_refused(url: str) -> None:
    with RawClient(url) as client:
        client.send(CHUNKED, b"2\r\n{}\r\n0\r\nx-a: ")
        client.send_all_it_takes(b"a" * 16384, 64)
        assert client.reply().status == 431


@pytest.mark.parametrize(
    "sent",
    [
        bytes(range(256)),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
        b"GET / HTTP/9.9\r\n\r\n",
        b"FOO /health HTTP/1.1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nx a: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere\r\n\r\n",
        # HTTP/2 without asking.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ],
)
def test_what_is_no_request_is_refused_in_openai_form(url: str, sent: bytes) -> None:
    with RawClient(url) as client:
        assert_openai_error(client.send(sent).reply())
        assert client.has_ended()


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
def test_an_upgrade_is_declined_and_the_request_answered(url: str, upgrade: str) -> None:
    headers = {"connection": "Upgrade, HTTP2-Settings", "http2_settings": "AAMAAABk"}
    with RawClient(url) as client:
        for _ in range(2):
            client.send(request(body=SHORT, upgrade=upgrade, **headers))
            assert client.reply().json()["choices"][0]["text"] == "hello"
        assert client.send(HEALTH).reply().status == 200


def test_hundreds_of_upgrades_at_once_end_the_connection(url: str) -> None:
    upgrade = request("GET", "/health", connection="upgrade", upgrade="h2c")
    with RawClient(url) as client:
        assert client.send(upgrade * 500).has_ended()


def test_http_1_0_is_answered_and_closed(url: str) -> None:
    with RawClient(url) as client:
        reply = client.send(request(body={**SHORT, "stream": True}, version="1.0")).reply()
        assert events_of(reply.body)[-1] == b"[DONE]"
        assert client.has_ended()


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://elsewhere/health", 200),
        ("/health?a=%00", 200),
        ("/health/", 404),
        ("//", 404),
        ("//health", 404),
        ("*", 404),
        ("/%00", 404),
        ("/v1/models/%00%0d%0a", 404),
        ("/v1/models/%ff%fe", 404),
        ("/v1/models/%ed%a0%80", 404),
        ("/v1/../health", 404),
        ("/%2e%2e/health", 404),
        ("/v1/models/" + "a" * 30_000, 404),
        ("http://elsewhere", 400),
    ],
)
def test_odd_targets(url: str, target: str, status: int) -> None:
    with RawClient(url) as client:
        reply = client.send(request("GET", target)).reply()

    assert reply.status == status
    if status != 200:
        assert_openai_error(reply)


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_methods_that_are_not_served_are_refused(url: str, method: str) -> None:
    with RawClient(url) as client:
        for route in ROUTES:
            reply = client.send(request(method, route)).reply()
            assert reply.status == 405
            assert_openai_error(reply)


def test_head_is_answered_without_a_body(url: str) -> None:
    with RawClient(url) as client:
        for route in ROUTES:
            client.send(request("HEAD", route))
            head = client._until(b"\r\n\r\n")
            is_post = "completions" in route or "token" in route or "responses" in route
            assert head.startswith(b"HTTP/1.1 405" if is_post else b"HTTP/1.1 200")
        # Not a byte of a body has come in between.
        assert json.loads(client.send(HEALTH).reply().body)["status"] == "ok"
