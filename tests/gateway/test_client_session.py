"""`baton.client`'s sessions against the gRPC door on a real socket, in front of a fake gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest

from baton.client import AsyncClient, Chunk, Client, Final, Sampling, Slo
from baton.errors import Cancelled, InvalidRequest, Overloaded, WorkerLost
from baton.rpc.status import StatusInterceptor
from baton.text import ModelText
from services.gateway.grpc_door import GatewayService
from services.gateway.types import SloHints
from tests.support.fake_decode import eventually
from tests.support.fake_gateway import ANSWER, FakeGateway


@dataclass
class Served:
    """A gateway, its server and a client of it."""

    gateway: FakeGateway
    server: grpc.aio.Server
    address: str
    client: AsyncClient


@pytest.fixture
async def served(toy_text: ModelText) -> AsyncIterator[Served]:
    gateway = FakeGateway(toy_text)
    server = grpc.aio.server(interceptors=(StatusInterceptor(),))
    GatewayService(gateway, max_timeout_s=60).register(server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with AsyncClient(address) as client:
        yield Served(gateway, server, address, client)
    await server.stop(None)


async def test_many_requests_are_answered_under_their_handles(served):
    texts: dict[int, str] = {}
    finals: dict[int, Final] = {}
    async with served.client.session() as session:
        handles = [session.submit("hello", Sampling(max_tokens=50)) for _ in range(20)]
        async for handle, event in session.events():
            if isinstance(event, Chunk):
                texts[handle] = texts.get(handle, "") + event.text
            else:
                assert isinstance(event, Final)
                finals[handle] = event

    assert texts == dict.fromkeys(handles, ANSWER)
    assert finals.keys() == set(handles)


async def test_the_blocking_session_does_the_same(served):
    def ask() -> list[str]:
        with Client(served.address) as client, client.session() as session:
            first = session.submit("hello", Sampling(max_tokens=50))
            session.submit("hello", Sampling(max_tokens=50))
            kinds = [type(event).__name__ for _, event in session.events() if _ == first]
            session.submit("and again", Sampling(max_tokens=50))
            return kinds[-1:] + [type(event).__name__ for _, event in session.events()][-1:]

    assert await asyncio.to_thread(ask) == ["Final", "Final"]


async def test_errors_are_events_with_their_type_and_delay(served):
    served.gateway.error = Overloaded("full", retry_after_s=1.5)
    async with served.client.session() as session:
        bad = session.submit("hello", Sampling(temperature=9))
        full = session.submit("hello")
        errors = {handle: event async for handle, event in session.events()}

    assert isinstance(errors[bad], InvalidRequest)
    assert errors[bad].field == "temperature"
    assert isinstance(errors[full], Overloaded)
    assert errors[full].retry_after_s == 1.5


async def test_a_cancelled_request_ends_with_an_error(served):
    served.gateway.gate_at = 0
    async with served.client.session() as session:
        handle = session.submit("hello")
        await eventually(lambda: served.gateway.num_running == 1)
        session.cancel(handle)
        [event] = [event async for event in session.events()]

    assert event.handle == handle
    assert isinstance(event.event, Cancelled)


async def test_leaving_a_session_cancels_what_runs(served):
    served.gateway.gate_at = 0
    async with served.client.session() as session:
        session.submit("hello")
        await eventually(lambda: served.gateway.num_running == 1)

    await eventually(lambda: served.gateway.num_cancelled == 1)


async def test_a_broken_stream_is_raised(served):
    served.gateway.gate_at = 0
    async with served.client.session() as session:
        session.submit("hello")
        await eventually(lambda: served.gateway.num_running == 1)
        stopping = asyncio.create_task(served.server.stop(0))
        with pytest.raises((WorkerLost, Cancelled)):
            [event async for event in session.events()]
    await stopping


async def test_tenant_hints_and_packed_ids_reach_the_gateway(served):
    slo = Slo(target_ttft_ms=100, target_itl_ms=20, expected_output_count=7)
    async with served.client.session() as session:
        session.submit([5, 6], Sampling(seed=1), tenant="acme", cache_salt="s", slo=slo, priority=3)
        assert [event async for event in session.events()]

    [command] = served.gateway.commands
    assert command.token_ids == [5, 6]
    assert (command.tenant, command.cache_salt, command.priority) == ("acme", "acme\x1fs", 3)
    assert command.slo == SloHints(100, 20, 7)
