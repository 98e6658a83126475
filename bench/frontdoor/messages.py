"""What loads are made of, and what a client saw of one. Plain data: it crosses a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Door(StrEnum):
    """How a client comes in."""

    POOLED = "pooled"
    """OpenAI HTTP, SSE, a kept connection per client."""
    QUICK = "quick"
    """The same, acknowledging at once: what a server's own delays are measured with."""
    FRESH = "fresh"
    """OpenAI HTTP, SSE, a new connection per request."""
    GRPC = "grpc"
    """Baton gRPC `Generate`, all clients on one connection per gateway."""
    SESSION = "session"
    """Baton gRPC `Session`, all clients on one stream per gateway."""

    @property
    def is_http(self) -> bool:
        """Whether a peer has this door too."""
        return self not in (Door.GRPC, Door.SESSION)


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens of a request. The first `shared_len` of a prompt are the same in all of them."""

    prompt_len: int
    output_len: int
    shared_len: int = 0

    def __str__(self) -> str:
        return f"{self.prompt_len}/{self.output_len}" + ("-shared" if self.shared_len else "")


@dataclass(frozen=True, slots=True)
class Load:
    """To a client: bring this, in a closed loop."""

    door: Door
    addresses: tuple[str, ...]
    """Where the door is; clients spread over them."""
    model: str
    tokenizer: Path
    shape: Shape
    num_requests: int
    num_clients: int
    seed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """From a client: how a load went."""

    ttfts_s: tuple[float, ...]
    num_tokens: int
    num_events: int
    """Messages that the tokens came in."""
    wall_s: float
    cpu_s: float
    """CPU time of the client's process."""

    @property
    def client_share(self) -> float:
        """Of one core."""
        return self.cpu_s / self.wall_s
