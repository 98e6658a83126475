"""The OpenAPI description is true: whatever is sent, the answer is one that it lists."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks

from baton.text import ModelText
from services.gateway.openai.openapi import openapi
from tests.support.fake_gateway import FakeGateway
from tests.support.openai_door import open_door

load_all_checks()
TRUTHS = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    ]
)
schema = schemathesis.openapi.from_dict(openapi())


@pytest.fixture(scope="module")
def base_url(toy_text: ModelText) -> Iterator[str]:
    """The door, served from a thread of its own, since the fuzzer blocks."""
    ready: list[str] = []
    is_open, is_done = threading.Event(), threading.Event()

    async def serve() -> None:
        async with open_door(FakeGateway(toy_text)) as door:
            ready.append(f"http://{door.server.address}")
            is_open.set()
            await asyncio.to_thread(is_done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    is_open.wait(10)
    yield ready[0]
    is_done.set()
    thread.join()


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_description_lists(
    case: schemathesis.Case, base_url: str
) -> None:
    case.call_and_validate(base_url=base_url, checks=TRUTHS)
