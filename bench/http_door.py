"""The OpenAI HTTP door, over the standard library's client and one kept connection."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse

from bench.failure import BenchFailed
from bench.stats import Answer

_TIMEOUT_S = 60.0
_EVENT = b"data: "
_DONE = b"[DONE]"


class HttpDoor:
    """Blocking: call it from a thread. The connection sets TCP_NODELAY by itself."""

    def __init__(self, address: str, model: str) -> None:
        self._connection = HTTPConnection(address, timeout=_TIMEOUT_S)
        self._model = model

    def answer(self, token_ids: Sequence[int], max_tokens: int) -> Answer:
        """One whole greedy answer of `/v1/completions`, streamed."""
        body = json.dumps(
            {
                "model": self._model,
                "prompt": list(token_ids),
                "max_tokens": max_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )
        answer = Answer(time.monotonic())
        headers = {"content-type": "application/json"}
        try:
            self._connection.request("POST", "/v1/completions", body, headers)
            response = self._connection.getresponse()
            num_tokens = read_events(response, answer)
        except (OSError, HTTPException) as error:
            raise BenchFailed(f"the HTTP door failed: {error!r}") from error
        if num_tokens != max_tokens:
            raise BenchFailed(f"usage says {num_tokens} tokens, {max_tokens} were asked for.")
        return answer

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def read_events(response: HTTPResponse, answer: Answer) -> int:
    """Notes the arrivals; returns the output tokens that the usage event counts."""
    if response.status != 200:
        raise BenchFailed(f"the HTTP door said {response.status}: {response.read()[:300]!r}")
    num_tokens = 0
    while line := response.readline():
        now = time.monotonic()
        if not line.startswith(_EVENT) or line.startswith(_EVENT + _DONE):
            continue
        event = json.loads(line.removeprefix(_EVENT))
        if event["choices"]:
            # An event says text, not tokens; the clock only needs to know that it came.
            answer.take(now, 1)
        if event.get("usage"):
            num_tokens = event["usage"]["completion_tokens"]
    return num_tokens
