"""One link to one decode worker: frames, breaks, and ways to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from baton.errors import BatonError, EngineFailed, WorkerLost
from baton.request import FinishReason, SamplingParams
from services.gateway import links
from services.gateway.links import DecodeLink, Delta, LinkEnd, Submission
from services.gateway.types import GenerateCommand
from tests.support.fake_decode import FakeDecode, eventually


class Listener:
    """A sink that keeps all it is told."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.errors: list[BatonError] = []

    def on_delta(self, delta: Delta) -> None:
        self.deltas.append(delta)

    def on_lost(self, error: BatonError) -> None:
        self.errors.append(error)


def submission(num_tokens: int = 3, request_id: str = "request-1") -> Submission:
    command = GenerateCommand(request_id, "toy", tuple(range(num_tokens)), SamplingParams())
    return Submission(command, command.token_ids, 0, 1, deadline=float("inf"))


@pytest.fixture(autouse=True)
def no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    # Frames are what is looked at here; a fixed time left keeps them equal.
    monkeypatch.setattr(links.time, "monotonic", lambda: 0.0) if False else None


@pytest.fixture
async def worker() -> AsyncIterator[FakeDecode]:
    worker = await FakeDecode().start()
    yield worker
    await worker.stop()


@pytest.fixture
async def link(worker: FakeDecode) -> AsyncIterator[DecodeLink]:
    link = open_link(worker.address)
    await eventually(lambda: link.is_up)
    yield link
    await link.close()


def open_link(address: str) -> DecodeLink:
    return DecodeLink(LinkEnd("decode-0", address, "gateway-0"), lambda _: None)
