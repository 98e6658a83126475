"""A typed client of Baton's gRPC door; nothing of protobuf shows.

    with Client("127.0.0.1:8500") as client:
        for event in client.generate("Once upon a time", Sampling(max_tokens=50)):
            if isinstance(event, Chunk):
                print(event.text, end="", flush=True)

`session()` carries many requests on one stream. `AsyncClient` is the same for asyncio. Failures are
the exceptions of `baton.errors`; whether and when to try again is left to the caller
(`error.status.may_retry`, `error.retry_after_s`).
"""

from __future__ import annotations

from baton.client.asynchronous import AsyncClient, AsyncEvents
from baton.client.blocking import Client, Events
from baton.client.sessions import AsyncSession, Session, SessionEvent
from baton.client.types import (
    Chunk,
    Final,
    Message,
    Model,
    Options,
    PositionLogprobs,
    Prompt,
    SampleSummary,
    Sampling,
    Slo,
    TokenLogprob,
)

__all__ = [
    "AsyncClient",
    "AsyncEvents",
    "AsyncSession",
    "Chunk",
    "Client",
    "Events",
    "Final",
    "Message",
    "Model",
    "Options",
    "PositionLogprobs",
    "Prompt",
    "SampleSummary",
    "Sampling",
    "Session",
    "SessionEvent",
    "Slo",
    "TokenLogprob",
]
