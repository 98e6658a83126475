"""What the OpenAI door refuses, and how it says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest

from baton.errors import DeadlineExceeded, NoWorker, Overloaded, WorkerLost
from tests.support.openai_door import Door, sse_events

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
TEXT: dict[str, Any] = {"prompt": "hello"}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


async def refusal(door: Door, path: str, body: object, status: int = 400) -> dict[str, Any]:
    """The error of a request that must not reach the gateway."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await door.http.post(path, content=content)
    assert response.status_code == status, response.text
    assert door.gateway.commands == []
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


OUT_OF_RANGE = [
    ("temperature", -0.1, "0 to 2"),
    ("temperature", 2.1, "0 to 2"),
    ("top_p", 0, "above 0"),
    ("top_p", 1.5, "at most 1"),
    ("top_k", -1, "0 to"),
    ("min_p", 1.1, "0 to 1"),
    ("repetition_penalty", 0, "above 0"),
    ("presence_penalty", 2.5, "-2 to 2"),
    ("frequency_penalty", -3, "-2 to 2"),
    ("n", 0, "1 to 128"),
    ("n", 129, "1 to 128"),
    ("max_tokens", 0, "at least 1"),
    ("max_tokens", 10_000, "context of 256"),
    ("min_tokens", 300, "max_tokens"),
    ("seed", 2**64, "2**64 - 1"),
    ("seed", -(2**63) - 1, "2**64 - 1"),
    ("stop", ["x"] * 17, "at most 16"),
    ("stop", "", "empty string"),
    ("stop_token_ids", [10**6], "ids go from 0"),
    ("logit_bias", {"5": 101}, "-100 to 100"),
    ("logit_bias", {"five": 1}, "token ids"),
    ("logit_bias", {"999999": 1}, "ids go from 0"),
    ("logit_bias", {str(i): 1 for i in range(1025)}, "at most 1,024"),
    ("cache_salt", "x" * 257, "at most 256"),
    ("priority", 101, "-100 to 100"),
]


@pytest.mark.parametrize(("field", "value", "limit"), OUT_OF_RANGE)
@pytest.mark.parametrize("is_chat", [True, False], ids=["chat", "text"])
async def test_a_value_out_of_range_is_named_with_its_limit(
    door: Door, is_chat: bool, field: str, value: object, limit: str
) -> None:
    path, body = ("/v1/chat/completions", CHAT) if is_chat else ("/v1/completions", TEXT)

    error = await refusal(door, path, {**body, field: value})

    assert error["param"] == field
    assert field in error["message"]
    assert limit in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "body", "param", "phrase"),
    [
        ("/v1/chat/completions", {}, "messages", "is missing"),
        ("/v1/chat/completions", {"messages": []}, "messages", "at least one"),
        ("/v1/chat/completions", {"messages": "hello"}, "messages", "list"),
        ("/v1/chat/completions", {"messages": [{"content": "x"}]}, "messages[0].role", "missing"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "wizard", "content": "x"}]},
            "messages[0].role",
            "one of system, developer, user, assistant, tool",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0]",
            "tool_call_id",
        ),
        ("/v1/chat/completions", {**CHAT, "tools": [TOOL]}, "tools", "--tool-parser"),
        ("/v1/chat/completions", {**CHAT, "tools": [{}]}, "tools[0].type", "missing"),
        ("/v1/chat/completions", {**CHAT, "tools": [TOOL, TOOL]}, "tools", "'f' twice"),
        ("/v1/chat/completions", {**CHAT, "tools": [TOOL] * 129}, "tools", "at most 128"),
        ("/v1/chat/completions", {**CHAT, "tool_choice": "required"}, "tool_choice", "none"),
        ("/v1/chat/completions", {**CHAT, "tool_choice": "maybe"}, "tool_choice", "auto"),
        (
            "/v1/chat/completions",
            {**CHAT, "tools": [TOOL], "tool_choice": {**TOOL, "function": {"name": "g"}}},
            "tool_choice",
            "'g'",
        ),
        (
            "/v1/chat/completions",
            {**CHAT, "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs",
            "'messages'",
        ),
        ("/v1/completions", {**TEXT, "tools": [TOOL]}, "tools", "not supported"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content",
            "parts of type text",
        ),
        ("/v1/chat/completions", {**CHAT, "temperature": "hot"}, "temperature", '"hot"'),
        ("/v1/chat/completions", {**CHAT, "temperature": True}, "temperature", "true"),
        ("/v1/chat/completions", {**CHAT, "max_tokens": 1.5}, "max_tokens", "1.5"),
        ("/v1/chat/completions", {**CHAT, "stop": [1]}, "stop", "list of strings"),
        ("/v1/chat/completions", {**CHAT, "top_logprobs": 3}, "top_logprobs", "logprobs"),
        (
            "/v1/chat/completions",
            {**CHAT, "logprobs": True, "top_logprobs": 21},
            "top_logprobs",
            "0 to 20",
        ),
        ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 0}, "max_completion_tokens", ""),
        ("/v1/chat/completions", {**CHAT, "stream_options": {}}, "stream_options", "stream"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "fox " * 300}]},
            "messages",
            "context of 256 tokens",
        ),
        ("/v1/completions", {}, "prompt", "is missing"),
        ("/v1/completions", {"prompt": ""}, "prompt", "is empty"),
        ("/v1/completions", {"prompt": []}, "prompt", "at least one"),
        ("/v1/completions", {"prompt": [[]]}, "prompt", "is empty"),
        ("/v1/completions", {"prompt": ["a", 1]}, "prompt", "should be"),
        ("/v1/completions", {"prompt": [True]}, "prompt", "should be"),
        ("/v1/completions", {"prompt": [-1]}, "prompt", "-1"),
        ("/v1/completions", {"prompt": [999999]}, "prompt", "999999"),
        ("/v1/completions", {"prompt": [5] * 256}, "prompt", "256 tokens"),
        ("/v1/completions", {"prompt": ["a"] * 65, "n": 2}, "prompt", "at most 128"),
        ("/v1/completions", {**TEXT, "logprobs": 21}, "logprobs", "0 to 20"),
        ("/v1/completions", {**TEXT, "best_of": 3}, "best_of", "only the value of n, 1"),
        ("/v1/completions", {**TEXT, "echo": True, "logprobs": 1}, "echo", "logprobs"),
        ("/v1/completions", {**TEXT, "temperature": 1e999}, "temperature", "0 to 2"),
    ],
)
async def test_a_malformed_field_is_named(
    door: Door, path: str, body: dict[str, Any], param: str, phrase: str
) -> None:
    error = await refusal(door, path, body)

    assert error["param"] == param
    assert param in error["message"]
    assert phrase in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("modalities", ["text", "audio"]),
        ("suffix", "the end"),
        ("skip_special_tokens", False),
        ("use_beam_search", True),
    ],
)
async def test_what_would_change_the_answer_and_is_not_supported_is_refused_by_name(
    door: Door, field: str, value: object
) -> None:
    error = await refusal(door, "/v1/chat/completions", {**CHAT, field: value})

    assert error["param"] == field
    assert "not supported" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": "a"',
        b'{"prompt": "a",}',
        b"[1, 2]",
        b'"text"',
        b"null",
        b"\xff\xfe{}",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "a", "user": "\\udfff"}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "metadata": {"a": 1, "\\u0061": 2}}',
        b'{"prompt": "a", "metadata": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"prompt": "a", "metadata": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": ' + b"[" * 100_000,
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    ],
)
async def test_a_broken_body_is_the_clients_fault(door: Door, body: bytes) -> None:
    error = await refusal(door, "/v1/completions", body)

    assert error["type"] == "invalid_request_error"


async def test_an_unknown_model_is_not_found(door: Door) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await door.client.completions.create(model="other", prompt="hello")
    with pytest.raises(openai.NotFoundError):
        await door.client.models.retrieve("other")

    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"
    assert "'other'" in raised.value.message


async def test_a_body_that_is_too_long_is_refused_before_it_is_read(door: Door) -> None:
    over = 8 * 2**20 + 1

    async def parts() -> Any:
        for _ in range(9):
            yield b" " * 2**20

    announced = await door.http.post("/v1/completions", content=b" " * over)
    chunked = await door.http.post("/v1/completions", content=parts())

    assert (announced.status_code, chunked.status_code) == (413, 413)
    assert "8,388,609 bytes; at most 8,388,608" in announced.json()["error"]["message"]
    assert "at most 8,388,608" in chunked.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "nonsense"])
async def test_a_body_that_is_not_said_to_be_json_is_refused(door: Door, kind: str) -> None:
    headers = {"content-type": kind}

    response = await door.http.post("/v1/completions", content=b"{}", headers=headers)

    assert response.status_code == 415
    assert kind in response.json()["error"]["message"]
    assert "application/json" in response.json()["error"]["message"]


async def test_wrong_paths_and_methods_get_errors_in_the_same_form(door: Door) -> None:
    unknown = await door.http.get("/v1/nothing")
    wrong = await door.http.get("/v1/chat/completions")

    assert unknown.status_code == 404
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["error"]["message"] == "GET /v1/chat/completions is not served here."


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Overloaded("full", retry_after_s=2.25), 429, "rate_limit_error"),
        (NoWorker("no worker"), 503, "service_unavailable"),
        (DeadlineExceeded("too late"), 504, "timeout"),
        (RuntimeError("secret detail"), 500, "server_error"),
    ],
)
async def test_an_error_before_the_first_token_decides_the_status(
    door: Door, error: Exception, status: int, kind: str, is_stream: bool
) -> None:
    door.gateway.error = error

    response = await door.http.post("/v1/completions", json={**TEXT, "stream": is_stream})

    assert response.status_code == status
    assert response.json()["error"]["type"] == kind
    assert "secret" not in response.text
    assert response.headers.get("retry-after") == ("3" if status == 429 else None)
    assert response.headers.get("retry-after-ms") == ("2250" if status == 429 else None)
    assert door.gateway.num_running == 0


async def test_a_defect_beside_the_generating_paths_is_an_error_of_the_same_form(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def models() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(door.gateway, "models", models)
    answer = await door.http.get("/v1/models", headers={"x-request-id": "mine"})

    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "mine"
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_request_that_would_be_late_is_refused_before_its_prompt_is_looked_at(
    door: Door, is_stream: bool
) -> None:
    door.gateway.refusal = Overloaded("the line is long", retry_after_s=2.25)
    # Were it tokenised, it would be refused for its length.
    body = {**TEXT, "prompt": "word " * 10_000, "stream": is_stream}

    response = await door.http.post("/v1/completions", json=body)

    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.headers["retry-after-ms"] == "2250"
    assert not door.gateway.commands


async def test_an_error_in_mid_stream_is_the_last_event(door: Door) -> None:
    door.gateway.error = WorkerLost("the worker is gone")
    door.gateway.fail_at = 3

    response = await door.http.post("/v1/completions", json={**TEXT, "stream": True})

    *events, last = sse_events(response.text)
    assert len(events) == 3
    assert json.loads(last) == {
        "error": {
            "message": "the worker is gone",
            "type": "service_unavailable",
            "param": None,
            "code": "worker_lost",
        }
    }


async def test_the_official_client_raises_an_error_in_mid_stream(door: Door) -> None:
    door.gateway.error = RuntimeError("secret detail")
    door.gateway.fail_at = 2
    stream = await door.client.completions.create(model="toy", prompt="hello", stream=True)

    with pytest.raises(openai.APIError, match="internal error"):
        async for _ in stream:
            pass


async def test_one_failing_prompt_ends_the_others(door: Door) -> None:
    door.gateway.error = WorkerLost("the worker is gone")
    door.gateway.fail_at = 4

    response = await door.http.post("/v1/completions", json={"prompt": ["a", "b", "c"]})

    assert response.status_code == 503
    assert door.gateway.num_running == 0


async def test_many_bad_requests_leave_the_server_well(door: Door) -> None:
    bodies = [b"{", b"[]", b'{"prompt": 1}'] * 20

    await asyncio.gather(*(door.http.post("/v1/completions", content=body) for body in bodies))
    good = await door.http.post("/v1/completions", json=TEXT)

    assert good.status_code == 200
