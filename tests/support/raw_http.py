"""An HTTP client that keeps no rules: bytes out, and what comes back read by the letter."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any, Self

RST_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Reply:
    """One whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class RawClient:
    """One connection. `with RawClient("http://127.0.0.1:8000") as client: ...`"""

    def __init__(self, url: str, *, limit_s: float = 10.0, receive_buffer: int = 0) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.socket = socket.socket()
        self.socket.settimeout(limit_s)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((host, int(port)))
        self._read = b""

    def send(self, *parts: bytes) -> Self:
        """Sends bytes as they are."""
        for part in parts:
            self.socket.sendall(part)
        return self

    def send_all_it_takes(self, part: bytes, count: int) -> int:
        """Sends a part so often, or until the server has hung up; returns how often."""
        for done in range(count):
            try:
                self.socket.sendall(part)
            except (ConnectionError, TimeoutError):
                return done
        return count

    def reply(self) -> Reply:
        """The next answer, whichever way its end is marked."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        status = int(head[0].split()[1])
        if status < 200:
            return Reply(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Reply(status, headers, self._chunks())
        return Reply(status, headers, self._exactly(int(headers.get("content-length", 0))))

    def read(self, size: int = 1) -> bytes:
        """Some bytes, as a slow client would."""
        return self.socket.recv(size)

    def has_ended(self) -> bool:
        """Waits until the server closes; whether nothing came before that."""
        try:
            return not self._read and not self.socket.recv(1)
        except ConnectionError:
            return True

    def reset(self) -> None:
        """Leaves with an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
        self.socket.close()

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._exactly(2) == b"\r\n"
        return body

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._read:
            self._more()
        found, self._read = self._read.split(mark, 1)
        return found + mark

    def _exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            self._more()
        found, self._read = self._read[:size], self._read[size:]
        return found

    def _more(self) -> None:
        data = self.socket.recv(65536)
        assert data, f"the connection ended behind {self._read!r}"
        self._read += data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def request(
    method: str = "POST",
    path: str = "/v1/completions",
    body: bytes | dict[str, Any] = b"",
    version: str = "1.1",
    **headers: str,
) -> bytes:
    """A request. Underscores in the names of headers stand for dashes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/{version}", "host: test", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def assert_openai_error(reply: Reply) -> dict[str, Any]:
    """The error of an answer that is one in OpenAI's form, and nothing else."""
    assert reply.status >= 400
    assert reply.headers["content-type"] == "application/json"
    document = reply.json()
    assert set(document) == {"error"}
    error: dict[str, Any] = document["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"]
    return error
