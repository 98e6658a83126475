"""The life of a process, in this process and as a child with signals."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from example_service import NAMES, Example, Settings
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from service_process import ServiceProcess

from baton.errors import EngineFailed, InvalidRequest
from baton.rpc.channels import open_channel
from baton.rpc.serve import Process
from baton.v1 import decode_pb2_grpc, kvstore_pb2, kvstore_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Part:
    """Notes when it starts and stops."""

    def __init__(self, name: str, life: list[str], start_error: Exception | None = None) -> None:
        self.name, self.life, self.start_error = name, life, start_error

    async def start(self) -> None:
        self.life.append(f"{self.name} starts")
        if self.start_error is not None:
            raise self.start_error

    async def stop(self) -> None:
        self.life.append(f"{self.name} stops")


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    process = Process("example", Settings(grace_seconds=5))
    yield process
    await process.stop()


async def eventually(claim: Callable[[], bool], limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not claim():
            await asyncio.sleep(0.01)


async def status_of(address: str, service: str = "") -> int:
    async with open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        return int(answer.status)


def find(channel: grpc.aio.Channel) -> Any:
    stub = kvstore_pb2_grpc.KvStoreServiceStub(channel)
    return stub.FindMissing(kvstore_pb2.FindMissingRequest(), timeout=5)


async def never() -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


async def test_the_port_is_known_before_the_start_and_calls_pass_after_it(
    process: Process,
) -> None:
    Example().register(process)
    address = process.address

    await process.start()

    assert not address.endswith(":0")
    async with open_channel(address) as channel:
        assert (await find(channel)).missing == [7]


async def test_health_turns_serving_when_parts_and_probes_are_up(process: Process) -> None:
    is_able = False
    process.watch(lambda: is_able)
    Example().register(process)
    starting = asyncio.create_task(process.start())

    before = await status_of(process.address, NAMES[0])
    async with open_channel(process.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="is starting") as refused:
            await find(channel)
    is_able = True
    await starting

    assert before == NOT_SERVING
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [await status_of(process.address, name) for name in ("", *NAMES)] == [SERVING] * 3


async def test_every_watcher_hears_of_a_lost_and_found_ability(process: Process) -> None:
    is_able = True
    process.watch(lambda: is_able)
    await process.start()

    async with open_channel(process.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        watchers = [stub.Watch(request, timeout=20) for _ in range(3)]
        first = [(await watcher.read()).status for watcher in watchers]
        watchers.pop().cancel()  # one that leaves does not silence the others
        is_able = False
        second = [(await watcher.read()).status for watcher in watchers]
        is_able = True
        third = [(await watcher.read()).status for watcher in watchers]

    assert (first, second, third) == ([SERVING] * 3, [NOT_SERVING] * 2, [SERVING] * 2)


async def test_reflection_lists_the_services_for_outside_clients(process: Process) -> None:
    Example().register(process)
    await process.start()

    def ask() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(process.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            methods = database.FindFileContainingSymbol(NAMES[0]).service[0].method
            return list(database.get_services()), [method.name for method in methods]

    services, methods = await asyncio.to_thread(ask)

    assert {*NAMES, "grpc.health.v1.Health"} <= set(services)
    assert "FindMissing" in methods


async def test_parts_start_in_order_and_stop_in_reverse_around_the_hooks() -> None:
    process = Process("example", Settings())
    life: list[str] = []

    async def note(event: str) -> None:
        life.append(event)

    process.add(Part("store", life))
    process.add(Part("loop", life))
    process.on_ready(lambda: note("ready"))
    process.on_drain(lambda: note("drain"))

    await process.start()
    await process.stop()
    await process.stop()

    assert life == [
        "store starts",
        "loop starts",
        "ready",
        "drain",
        "loop stops",
        "store stops",
    ]


async def test_parts_that_started_are_stopped_when_one_does_not_start() -> None:
    process = Process("example", Settings())
    life: list[str] = []
    process.add(Part("store", life))
    process.add(Part("loop", life, InvalidRequest("no such model")))
    process.add(Part("never", life))

    with pytest.raises(InvalidRequest, match="no such model"):
        await process.run()

    assert life == ["store starts", "loop starts", "loop stops", "store stops"]


async def test_a_part_that_breaks_down_drains_the_process_and_makes_run_raise() -> None:
    process = Process("example", Settings())
    life: list[str] = []
    process.on_stop(Part("store", life).stop)

    async def break_down() -> None:
        process.fail(RuntimeError("device lost"))

    process.on_ready(break_down)

    with pytest.raises(EngineFailed, match="device lost"):
        await process.run()

    assert life == ["store stops"]


async def test_draining_refuses_new_calls_and_lets_streams_end(process: Process) -> None:
    example = Example()
    example.register(process)
    await process.start()

    async with open_channel(process.address) as channel:
        call = decode_pb2_grpc.DecodeServiceStub(channel).Connect(never())
        first = await call.read()
        stopping = asyncio.create_task(process.stop())
        await asyncio.wait_for(process.draining.wait(), 5)
        health = await status_of(process.address)
        with pytest.raises(grpc.aio.AioRpcError, match="is draining") as refused:
            await find(channel)
        example.leave.set()
        last = await call.read()
        await stopping

    assert (first.epoch, last.epoch) == ("e1", "last")
    assert health == NOT_SERVING
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_streams_that_outlast_the_grace_are_cancelled_before_parts_stop() -> None:
    process = Process("example", Settings(grace_seconds=0.1))
    example = Example()
    example.register(process)
    left_at_stop: list[int] = []

    class Store(Part):
        async def stop(self) -> None:
            left_at_stop.append(example.num_left)

    process.add(Store("store", []))
    await process.start()

    async with open_channel(process.address) as channel:
        call = decode_pb2_grpc.DecodeServiceStub(channel).Connect(never())
        await call.read()
        await asyncio.wait_for(process.stop(), 5)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call.read()

    assert ended.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert left_at_stop == [1]


async def test_a_client_that_leaves_ends_its_handler(process: Process) -> None:
    example = Example()
    example.register(process)
    await process.start()

    async with open_channel(process.address) as channel:
        call = decode_pb2_grpc.DecodeServiceStub(channel).Connect(never())
        await call.read()
        call.cancel()
        await eventually(lambda: example.num_left == 1)

    assert example.num_streams == 1


async def test_a_taken_address_is_told_in_a_sentence(process: Process) -> None:
    with pytest.raises(OSError, match=f"cannot listen on {process.address}"):
        Process("example", Settings(listen=process.address))


@pytest.mark.parametrize(
    ("listen", "advertise", "expected"),
    [
        ("127.0.0.1:0", "", r"127\.0\.0\.1:\d+"),
        ("127.0.0.1:0", "node-7", r"node-7:\d+"),
        ("127.0.0.1:0", "node-7:80", "node-7:80"),
        ("0.0.0.0:0", "fd00::1", r"\[fd00::1\]:[1-9]\d*"),
        ("0.0.0.0:0", "[fd00::1]:99", r"\[fd00::1\]:99"),
        ("0.0.0.0:0", "", r"(?!0\.0\.0\.0)[\w.-]+:[1-9]\d*"),
    ],
)
async def test_the_advertised_address_is_one_that_others_can_use(
    listen: str, advertise: str, expected: str
) -> None:
    process = Process("example", Settings(listen=listen, advertise=advertise))
    address = process.address
    await process.stop()

    assert re.fullmatch(expected, address), address


async def test_metrics_are_told_on_the_host_that_others_reach() -> None:
    process = Process("example", Settings(advertise="node-7", metrics_listen="0.0.0.0:0"))
    address = process.metrics_address
    await process.stop()

    assert re.fullmatch(r"node-7:[1-9]\d*", address), address


CHILD = """
import sys
from baton.rpc.serve import launch
from example_service import Example, Settings

async def build(process, settings):
    Example().register(process)

sys.exit(launch("example", Settings, build))
"""


LOADING_CHILD = """
import asyncio, sys, time
from baton.rpc import logs
from baton.rpc.serve import launch
from example_service import Settings

async def build(process, settings):
    logs.get_logger("example").info("loading")
    await asyncio.to_thread(time.sleep, 60)

sys.exit(launch("example", Settings, build))
"""


def example(*flags: str) -> ServiceProcess:
    return ServiceProcess("-c", CHILD, *flags)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_process_and_ends_it_with_code_0(number: signal.Signals) -> None:
    with example() as child:
        with grpc.insecure_channel(child.address) as channel:
            stub = kvstore_pb2_grpc.KvStoreServiceStub(channel)
            answer = stub.FindMissing(kvstore_pb2.FindMissingRequest(), timeout=5)
        child.signal(number)
        code = child.wait()

        assert answer.missing == [7]
        assert code == 0
        assert child.wait_for("draining")
        assert '"event": "stopped"' in child.output.splitlines()[-1]


def test_ready_is_the_last_line_of_the_start() -> None:
    with example("--metrics-listen", "127.0.0.1:0") as child:
        ready = child.wait_for("ready")

        assert '"event": "ready"' in child.lines[-1]
        assert not ready["address"].endswith(":0")
        assert not ready["metrics"].endswith(":0")


def test_a_second_signal_ends_the_process_at_once() -> None:
    with (
        example("--grace-seconds", "60") as child,
        grpc.insecure_channel(child.address) as channel,
    ):
        stub = kvstore_pb2_grpc.KvStoreServiceStub(channel)
        call = stub.GetStats.future(kvstore_pb2.GetStatsRequest(), timeout=60)
        # Waits until the call is inside: a later one on the same connection has been answered.
        stub.FindMissing(kvstore_pb2.FindMissingRequest(), timeout=5)
        child.signal(signal.SIGTERM)
        child.wait_for("draining")
        child.signal(signal.SIGTERM)
        code = child.wait(5)
        call.cancel()

    assert code == 128 + signal.SIGTERM


def test_a_signal_while_a_model_loads_ends_the_process_at_once() -> None:
    with ServiceProcess("-c", LOADING_CHILD) as child:
        child.wait_for("loading")
        child.signal(signal.SIGTERM)

        assert child.wait(10) == 128 + signal.SIGTERM


def test_a_bad_flag_ends_a_service_with_code_2_and_no_traceback() -> None:
    with example("--grace-seconds", "soon") as child:
        code = child.wait()

        assert code == 2
        assert "--grace-seconds is 'soon'" in child.output
        assert "Traceback" not in child.output


def test_a_taken_address_ends_a_service_with_code_1_and_a_sentence() -> None:
    with example() as first, example("--listen", first.address) as second:
        code = second.wait()

        assert code == 1
        assert f"cannot listen on {first.address}" in second.output
        assert "Traceback" not in second.output
