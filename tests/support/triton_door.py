"""The KServe door on a real socket, a tritonclient before it and a scripted worker behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from baton.rpc.serve import Process
from baton.rpc.settings import ServiceSettings
from services.gateway.kserve import SERVICE_NAME, InferenceService
from tests.support.fake_decode import FakeDecode
from tests.support.gateway_world import World
from tests.support.triton_child import TritonChild

TEXT = "the quick fox"


@dataclass
class TritonDoor:
    """A Triton client, the core it reaches, and a decode worker behind that."""

    world: World
    worker: FakeDecode
    child: TritonChild
    address: str

    async def triton(self, name: str, **arguments: Any) -> Any:
        """A call of the client, off the event loop."""
        return await asyncio.to_thread(self.child.call, self.address, name, **arguments)

    @property
    def sampling(self) -> Any:
        """What the last request's worker was told."""
        return self.worker.submissions[-1].message.sampling


@asynccontextmanager
async def open_triton_door(world: World, child: TritonChild) -> AsyncIterator[TritonDoor]:
    """A door whose worker answers everything with `TEXT`."""
    worker = await world.add()
    worker.script = lambda *_: world.ids(TEXT)
    process = Process("gateway", ServiceSettings())
    service = InferenceService(world.core, 600, process.draining)
    process.register([SERVICE_NAME], service.register)
    await process.start()
    yield TritonDoor(world, worker, child, process.address)
    await process.stop()


def text_input(text: str = "Hello") -> list[Any]:
    """A prompt as a tensor."""
    return ["text_input", "BYTES", [1], [text]]


def spec(*inputs: list[Any], **rest: Any) -> dict[str, Any]:
    """A request; inputs beside the prompt, which has no need to differ."""
    return {"inputs": [text_input(), *inputs], **rest}


def by_id(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What each request of a stream was told."""
    told: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        told.setdefault(event["id"], []).append(event)
    return told


def said(events: list[dict[str, Any]]) -> str:
    """The text of an answer."""
    return "".join(event["outputs"].get("text_output", [""])[0] for event in events)
