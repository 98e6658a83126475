"""Many HTTP clients in one loop over epoll, as cheap as Python allows.

Requests are made beforehand, answers are looked at as bytes. All answers are checked for their
number of tokens, a sample of them in full.
"""

from __future__ import annotations

import json
import re
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.failure import BenchFailed
from bench.frontdoor.messages import Door, Load, Shape
from bench.frontdoor.prompts import make_prompts

_TIMEOUT_S = 60.0
_RECEIVE_BYTES = 1 << 16
_STATUS = b"HTTP/1.1 200"
_END = b"\r\n0\r\n\r\n"
"""Of a chunked body."""
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')
_CHECKED_ONE_IN = 16


@dataclass(slots=True)
class Answers:
    """What came back."""

    ttfts_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_events: int = 0
    raw: list[bytes] = field(default_factory=list)
    """One in some, for a look when the clock has stopped."""


def make_requests(load: Load) -> list[bytes]:
    """All bytes to send, one request each."""
    shape = load.shape
    prompts = make_prompts(load.tokenizer, shape, load.num_requests, load.seed)
    close = "connection: close\r\n" if load.door is Door.FRESH else ""
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        f"{close}content-length: "
    )
    fields = {
        "model": load.model,
        "max_tokens": shape.output_len,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    bodies = (json.dumps({**fields, "prompt": prompt}) for prompt in prompts)
    return [f"{head}{len(body)}\r\n\r\n{body}".encode() for body in bodies]


class HttpClients:
    """A closed loop of clients: each sends its next request when its answer has ended."""

    def __init__(self, load: Load) -> None:
        """Connects, unless connections are to be fresh."""
        self._load = load
        self._epoll = select.epoll()
        self._clients: dict[int, _Client] = {}
        self._idle = [
            _Client(load.addresses[index % len(load.addresses)], load.door)
            for index in range(min(load.num_clients, load.num_requests))
        ]
        self._answers = Answers()

    def run(self, requests: Sequence[bytes]) -> Answers:
        """Sends all and reads all answers."""
        waiting = iter(requests)
        for client in self._idle:
            self._send(client, next(waiting))
        while self._clients:
            events = self._epoll.poll(_TIMEOUT_S)
            if not events:
                raise BenchFailed(f"HTTP: no answer moved for {_TIMEOUT_S:.0f} s.")
            for number, _ in events:
                client = self._clients[number]
                if client.rest:
                    client.send_rest()
                    if not client.rest:
                        self._epoll.modify(number, select.EPOLLIN)
                elif client.receive():
                    self._finish(client)
                    request = next(waiting, None)
                    if request is not None:
                        self._send(client, request)
        self._epoll.close()
        return self._answers

    def _send(self, client: _Client, request: bytes) -> None:
        client.start(request)
        number = client.socket.fileno()
        self._clients[number] = client
        self._epoll.register(number, select.EPOLLOUT if client.rest else select.EPOLLIN)

    def _finish(self, client: _Client) -> None:
        """Takes an answer and frees its client."""
        number = client.socket.fileno()
        self._epoll.unregister(number)
        del self._clients[number]
        client.end()
        raw, answers = client.so_far, self._answers
        usage = _USAGE.search(raw)
        found = int(usage[1]) if usage else None
        if found != self._load.shape.output_len or b"data: [DONE]" not in raw:
            raise BenchFailed(f"HTTP: an answer with {found} tokens came: {raw[:600]!r}")
        if len(answers.ttfts_s) % _CHECKED_ONE_IN == 0:
            answers.raw.append(raw)
        answers.ttfts_s.append(client.first - client.began)
        answers.num_tokens += found
        # Neither the usage nor the end is one that brings a token.
        answers.num_events += raw.count(b"data: ") - 2


class _Client:
    """One client and its connection."""

    def __init__(self, address: str, door: Door) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._is_fresh = door is Door.FRESH
        self._is_quick = door is Door.QUICK
        self.rest = memoryview(b"")
        self.parts: list[bytes] = []
        self.began = self.first = 0.0
        if not self._is_fresh:
            self._connect()

    @property
    def so_far(self) -> bytes:
        """The answer, as far as it has come."""
        return b"".join(self.parts)

    def start(self, request: bytes) -> None:
        """Starts the clock and sends as much as the kernel takes."""
        self.began, self.first, self.parts = time.monotonic(), 0.0, []
        if self._is_fresh:
            self._connect()
        self.rest = memoryview(request)
        self.send_rest()

    def send_rest(self) -> None:
        """Goes on sending."""
        try:
            self.rest = self.rest[self.socket.send(self.rest) :]
        except BlockingIOError:
            return
        except OSError as error:
            raise BenchFailed(f"HTTP: a request could not be sent: {error!r}") from error

    def receive(self) -> bool:
        """Reads what is there; whether that was the end of the answer."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except OSError as error:
            raise BenchFailed(f"HTTP: an answer broke: {error!r}") from error
        if self._is_quick:
            # The kernel falls back to waiting by itself; so each time anew.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.parts.append(data)
        if not self.first and b"data:" in (data if len(self.parts) == 1 else self.so_far):
            self.first = time.monotonic()
        is_wrong = len(self.parts) == 1 and not data.startswith(_STATUS[: len(data)])
        if not data or is_wrong:
            raise BenchFailed(f"HTTP: this is no answer: {self.so_far[:600]!r}")
        tail = data if len(data) >= len(_END) else b"".join(self.parts[-len(_END) :])
        return tail.endswith(_END)

    def end(self) -> None:
        """The answer is complete."""
        if self._is_fresh:
            self.socket.close()

    def _connect(self) -> None:
        self.socket = socket.create_connection(self._address, _TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._is_quick:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.socket.setblocking(False)


def check_answers(raw: Sequence[bytes], shape: Shape) -> None:
    """Reads answers in full. Raises `BenchFailed` for one that is not what was asked for."""
    texts = [_check_answer(answer, shape) for answer in raw]
    if not any(texts):
        raise BenchFailed("HTTP: no answer has any text.")


def _check_answer(raw: bytes, shape: Shape) -> str:
    lines = raw.partition(b"\r\n\r\n")[2].split(b"\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    usages: list[dict[str, int]] = [event["usage"] for event in events if event.get("usage")]
    usage = usages[-1] if usages else {}
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    lengths = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    if reasons != ["length"] or lengths != (shape.prompt_len, shape.output_len):
        raise BenchFailed(f"HTTP: {shape} was asked for, this came: {reasons} {usage}")
    return "".join(choice["text"] for choice in choices)
