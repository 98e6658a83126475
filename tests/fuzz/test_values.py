"""Bodies and headers that nobody should send are refused by name, and no engine hears of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.exposition import sample_sum
from tests.support.raw_http import RawClient, Reply, assert_openai_error, request

pytestmark = pytest.mark.cluster

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
LONE = '"\\ud800"'
"""Half a character, as JSON."""


def of(fields: str, prompt: str = '"a"') -> bytes:
    """A body written by hand."""
    return f'{{"prompt":{prompt},{fields}}}'.encode()


def given(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a", **fields}).encode()


NO_JSON = {
    "nothing": b"",
    "half": b'{"prompt":',
    "deep": b'{"prompt":' + b"[" * 100_000,
    "deep elsewhere": of('"x":' + "[" * 1000 + "]" * 1000),
    "a number of 100,000 digits": of('"max_tokens":' + "9" * 100_000),
    "byte order mark": b"\xef\xbb\xbf" + given(),
    "utf-16": given().decode().encode("utf-16"),
    "utf-16 without a mark": given().decode().encode("utf-16-le"),
    "utf-32": given().decode().encode("utf-32"),
    "no utf-8": b'{"prompt":"\xff\xfe"}',
    "surrogates as utf-8": b'{"prompt":"\xed\xa0\x80"}',
    "half a character in prompt": of('"n":1', prompt=LONE),
    "the other half": of('"n":1', prompt='"\\udc00a"'),
    "half a character in stop": of(f'"stop":{LONE}'),
    "half a character in model": of(f'"model":{LONE}'),
    "half a character in cache_salt": of(f'"cache_salt":{LONE}'),
    "half a character in a name": of(f"{LONE}:1"),
    "a bare NUL": b'{"prompt":"a\x00"}',
    "two documents": given() + given(),
}

BAD_VALUES = [
    ("temperature", of('"temperature":1e400'), "from 0 to 2"),
    ("temperature", of('"temperature":NaN'), "from 0 to 2"),
    ("temperature", of('"temperature":-Infinity'), "from 0 to 2"),
    ("presence_penalty", of('"presence_penalty":NaN'), "from -2 to 2"),
    ("logit_bias", of('"logit_bias":{"5":NaN}'), "from -100 to 100"),
    ("logit_bias", given(logit_bias={str(i): 1 for i in range(10_000)}), "at most 1,024"),
    ("logit_bias", given(logit_bias={"-1": 1}), "token ids"),
    ("logit_bias", given(logit_bias={"1.5": 1}), "token ids"),
    ("logit_bias", given(logit_bias={"\u0661": 1}), "token ids"),
    ("logit_bias", given(logit_bias={"384": 1}), "from 0 to 383"),
    ("max_tokens", of('"max_tokens":' + "9" * 30), "leaves 1 to 1,023"),
    ("seed", of('"seed":' + "9" * 30), "2**64 - 1"),
    ("n", of('"n":' + "9" * 4000), "from 1 to 128"),
    ("top_k", of('"top_k":' + "9" * 30), "from 0 to"),
    ("priority", of('"priority":' + "-" + "9" * 30), "from -100 to 100"),
    ("prompt", of('"prompt":"b"'), "twice"),
    ("seed", of('"seed":1,"seed":2'), "twice"),
    ("prompt", given(prompt="a" * 1_000_000), "context of 1,024"),
    ("prompt", given(prompt=" " * 1_000_000), "context of 1,024"),
    ("prompt", given(prompt=[300] * 1_000_000), "context of 1,024"),
    ("prompt", given(prompt=[384]), "from 0 to 383"),
    ("prompt", given(prompt=[-1]), "from 0 to 383"),
    ("prompt", of('"n":1', prompt=f"[{'9' * 40}]"), "from 0 to 383"),
    ("prompt", given(prompt=[1.0]), "list of token ids"),
    ("prompt", given(prompt=[True]), "list of token ids"),
    ("prompt", given(prompt=["a"] * 128, n=2), "at most 128"),
    ("prompt", given(prompt=["a"] * 100_000), "at most 128"),
    ("stop_token_ids", given(stop_token_ids=[384]), "from 0 to 383"),
    ("stop_token_ids", given(stop_token_ids=[1] * 100_000), "at most 1,024"),
    ("stop", given(stop=["x"] * 17), "at most 16"),
    ("stop", given(stop="ab" * 500_000), "at most 256"),
    ("cache_salt", given(cache_salt="s" * 257), "at most 256"),
]

BAD_HEADERS = [
    ("x-request-id", "\xe9"),
    ("x-request-id", "i" * 129),
    ("x-request-id", "two words"),
    ("x-baton-tenant", "\xe9\xff"),
    ("x-baton-tenant", "\xed\xa0\x80"),
    ("x-baton-tenant", "t" * 129),
    ("idempotency-key", "\xff"),
    ("x-baton-target-ttft-ms", "1e9"),
    ("x-baton-target-ttft-ms", "\xb2"),
    ("x-baton-target-itl-ms", "99999999999"),
    ("x-baton-expected-output-tokens", "-1"),
]


@pytest.fixture
def unheard(victim: Cluster, url: str) -> Iterator[str]:
    """The door's address, for requests of which the decode worker must not learn."""
    before = num_sequences(victim)
    yield url
    assert num_sequences(victim) == before


def num_sequences(victim: Cluster) -> float:
    """Sequences that the decode worker has had, running ones included."""
    metrics = victim.metrics_url("decode-0")
    names = ("baton_sequences_total", "baton_running_sequences")
    return sum(sample_sum(metrics, name) for name in names)


def ask(url: str, body: bytes, path: str = COMPLETIONS, **headers: str) -> Reply:
    with RawClient(url) as client:
        return client.send(request(path=path, body=body, **headers)).reply()


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json_is_refused(unheard: str, body: bytes, path: str) -> None:
    reply = ask(unheard, body, path)

    assert reply.status == 400
    assert "not valid JSON" in assert_openai_error(reply)["message"]


@pytest.mark.parametrize(("field", "body", "limit"), BAD_VALUES)
def test_a_bad_value_is_refused_with_its_limit(
    unheard: str, field: str, body: bytes, limit: str
) -> None:
    reply = ask(unheard, body)

    error = assert_openai_error(reply)
    assert (reply.status, error["param"]) == (400, field)
    assert field in error["message"]
    assert limit in error["message"]


@pytest.mark.parametrize(("name", "value"), BAD_HEADERS)
def test_a_bad_header_is_refused_by_name(unheard: str, name: str, value: str) -> None:
    with RawClient(unheard) as client:
        reply = client.send(request(body=given(), **{name: value})).reply()

    assert reply.status == 400
    assert assert_openai_error(reply)["param"].lower() == name


def test_a_hundred_thousand_messages_are_too_many_tokens(unheard: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "a"}] * 100_000}).encode()

    error = assert_openai_error(ask(unheard, body, CHAT))

    assert error["param"] == "messages"


def test_odd_but_right_values_are_answered(url: str) -> None:
    nul = ask(url, given(prompt="a\x00b", max_tokens=3, stop=["\x00\x00"], cache_salt="\x00"))
    many = ask(url, given(prompt=["abc"] * 64, n=2, max_tokens=1))
    overlapping = ask(url, given(prompt="aab", max_tokens=9, stop=["ba", "aba", "abaa"]))
    unknown = ask(url, of('"x":NaN,"y":' + "9" * 4000 + ',"max_tokens":1'))

    assert nul.json()["choices"][0]["text"] == "a\x00b"
    assert len(many.json()["choices"]) == 128
    assert overlapping.json()["choices"][0] | {"logprobs": None} == {
        "index": 0,
        "text": "a",
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert unknown.status == 200
