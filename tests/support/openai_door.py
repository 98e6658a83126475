"""The OpenAI door on a real socket, in front of a fake gateway."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from openai import AsyncOpenAI

from services.gateway.openai import HttpServer, app
from services.gateway.openai.app import HttpLimits
from tests.support.fake_gateway import FakeGateway


@dataclass
class Door:
    """Everything a test talks to."""

    gateway: FakeGateway
    server: HttpServer
    client: AsyncOpenAI
    http: httpx.AsyncClient


@asynccontextmanager
async def open_door(gateway: FakeGateway, limits: HttpLimits | None = None) -> AsyncIterator[Door]:
    server = HttpServer(app(gateway, limits), "127.0.0.1:0")
    await server.start()
    base = f"http://{server.address}"
    async with (
        AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=10) as client,
        httpx.AsyncClient(base_url=base, trust_env=False, timeout=10) as http,
    ):
        yield Door(gateway, server, client, http)
    await server.stop()


def sse_events(text: str) -> list[str]:
    """The data of all events, each of which must be complete."""
    assert text.endswith("\n\n")
    events = text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events]


def normalised(text: str) -> str:
    """An answer with its time of creation and its numbers of tokens set to 0."""
    return re.sub(r'"(created|\w+_tokens)":\d+', r'"\1":0', text)
