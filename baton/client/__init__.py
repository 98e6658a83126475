"""A typed client of Baton's gRPC door; nothing of protobuf shows.

    with Client("127.0.0.1:8500") as client:
        for event in client.generate("Once upon a time", Sampling(max_tokens=50)):
            if isinstance(event, Chunk):
                print(event.text, end="", flush=True)

`AsyncClient` is the same for asyncio. Failures are the exceptions of `baton.errors`.
"""

from __future__ import annotations

from baton.client.asynchronous import AsyncClient, AsyncEvents
from baton.client.blocking import Client, Events
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
    TokenLogprob,
)

__all__ = [
    "AsyncClient",
    "AsyncEvents",
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
    "TokenLogprob",
]
