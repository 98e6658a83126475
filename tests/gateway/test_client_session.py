"""`baton.client`'s sessions against the gRPC door on a real socket, in front of a fake gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest

from baton.client import AsyncClient, Chunk, Client, Final, Sampling, Slo, messages
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


LONG = "hello " * 17_000
"""100 KB."""


async def test_what_has_gathered_leaves_in_messages_that_fit(served):
    served.gateway.context_len = 1 << 20
    async with served.client.session() as session:
        handles = [session.submit(LONG, Sampling(max_tokens=50)) for _ in range(64)]
        session.cancel(session.submit(LONG))
        ends = {handle: event async for handle, event in session.events()}

    assert [type(ends[handle]) for handle in handles] == [Final] * 64
    assert len(ends) == 65


async def test_the_blocking_session_splits_what_has_gathered_too(served):
    served.gateway.context_len = 1 << 20

    def ask() -> list[str]:
        with Client(served.address) as client, client.session() as session:
            for _ in range(64):
                session.submit(LONG, Sampling(max_tokens=1))
            return [type(event).__name__ for _, event in session.events()]

    assert (await asyncio.to_thread(ask)).count("Final") == 64


async def test_a_request_too_long_for_any_message_is_refused_alone_before_it_is_sent(served):
    async with served.client.session() as session:
        with pytest.raises(InvalidRequest, match="at most 4,194,240 can be sent") as refused:
            session.submit("x" * (4 << 20))
        handle = session.submit("hello", Sampling(max_tokens=50))
        ends = {handle: event async for handle, event in session.events()}

    assert refused.value.field == "prompt"
    assert isinstance(ends[handle], Final)
    assert len(served.gateway.commands) == 1


async def test_the_longest_request_that_is_accepted_is_carried(served):
    head = len(messages.generate_request([5], Sampling(), {}).SerializeToString())
    num_tokens = (messages.MAX_REQUEST_BYTES - head - 64) // 4
    async with served.client.session() as session:
        session.submit([5] * num_tokens)
        [event] = [event async for event in session.events()]

    assert isinstance(event.event, InvalidRequest)
    assert "context" in event.event.message


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
