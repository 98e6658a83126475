"""The gateway as it starts: put together by its own main, with a real Redis or without any."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from baton.blocks import chain_keys, root_key
from baton.engine.types import BlockEvent, BlockEventKind
from baton.policy.rules import Routing
from baton.registry.announcer import Announcer
from baton.registry.embedded import EmbeddedRedis
from baton.request import FinishReason
from baton.rpc.serve import Process
from baton.rpc.settings import load
from baton.text import load_text
from baton.v1 import gateway_pb2 as pb
from baton.v1 import gateway_pb2_grpc as stubs
from baton.v1 import types_pb2
from services.gateway.__main__ import build
from services.gateway.settings import Settings
from tests.support.fake_decode import LAYOUT, FakeDecode, eventually
from tests.support.gateway_world import record_of
from tests.support.service_process import ServiceProcess

PROMPT = "the quick brown fox jumps over the lazy dog, and again, and again, and then once more"


class Cluster:
    """A gateway in this process, decode workers without engines, and what joins them."""

    def __init__(self, redis: EmbeddedRedis, folder: Path) -> None:
        self.redis = redis
        self.text = load_text(folder)
        self.workers: dict[str, FakeDecode] = {}
        self.announcers: dict[str, Announcer] = {}
        self.stub: Any = None

    async def add(self, worker_id: str) -> FakeDecode:
        """A worker that announces itself."""
        worker = self.workers[worker_id] = await FakeDecode(worker_id).start()
        worker.context_len = 1024
        announcer = Announcer(self.redis.url, record_of(worker))
        self.announcers[worker_id] = announcer
        await announcer.start()
        await eventually(lambda: bool(worker.connections), "the gateway's stream")
        return worker

    def generate(self, text: str = PROMPT) -> Any:
        """A running call."""
        sampling = types_pb2.SamplingParams(max_tokens=5)
        return self.stub.Generate(pb.GenerateRequest(text=text, sampling=sampling))

    async def close(self) -> None:
        """Ends the workers."""
        for announcer in self.announcers.values():
            await announcer.stop()
        for worker in self.workers.values():
            await worker.stop()


@asynccontextmanager
async def open_cluster(folder: Path, **changes: str) -> AsyncIterator[Cluster]:
    with EmbeddedRedis() as redis:
        given: dict[str, Any] = {"listen": "127.0.0.1:0", "http_listen": "", "grace_seconds": 1}
        settings = Settings(redis_url=redis.url, model=folder, **(given | changes))
        process = Process("gateway", settings)
        await build(process, settings)
        await process.start()
        cluster = Cluster(redis, folder)
        async with grpc.aio.insecure_channel(process.address) as channel:
            cluster.stub = stubs.GatewayServiceStub(channel)
            try:
                yield cluster
            finally:
                await process.stop()
                await cluster.close()


async def ask_until(claim: Callable[[], bool], cluster: Cluster, text: str = PROMPT) -> list[Any]:
    """Asks again and again, one request at a time, until a claim holds."""
    calls: list[Any] = []
    async with asyncio.timeout(10):
        while not claim():
            calls.append(cluster.generate(text))
            num_before = num_submissions(cluster)
            await eventually(lambda num=num_before: num_submissions(cluster) > num)
    return calls


def num_submissions(cluster: Cluster) -> int:
    return sum(len(worker.submissions) for worker in cluster.workers.values())


async def read_text(call: Any) -> str:
    messages = [message async for message in call]
    assert messages[-1].HasField("final")
    return "".join(message.chunk.text for message in messages[:-1])


async def test_workers_found_in_redis_serve_and_their_events_steer(model_folder):
    async with open_cluster(model_folder) as cluster:
        for worker_id in ("decode-0", "decode-1"):
            worker = await cluster.add(worker_id)
            worker.script = lambda *_: cluster.text.encode("fox")
        ids = cluster.text.encode(PROMPT * 2)
        keys = chain_keys(root_key(LAYOUT.namespace), ids, LAYOUT.block_size)
        holder = cluster.workers["decode-1"]
        # Its snapshot is empty and will not be asked for twice: what follows is known by events.
        await eventually(lambda: holder.num_snapshots == 1)
        cluster.announcers["decode-1"].publish_events([BlockEvent(BlockEventKind.STORED, keys)])

        went_to: list[str] = []

        async def ask() -> None:
            before = len(holder.submissions)
            assert await read_text(cluster.generate(PROMPT * 2)) == "fox"
            went_to.append("holder" if len(holder.submissions) > before else "other")

        # Until the events have come, chance decides: so long a run is none.
        async with asyncio.timeout(10):
            while went_to[-20:] != ["holder"] * 20:
                await ask()


@pytest.mark.parametrize("routing", Routing)
async def test_requests_are_routed_by_the_rule_that_was_set(model_folder, routing):
    async with open_cluster(model_folder, routing=routing.value) as cluster:
        for worker_id in ("decode-0", "decode-1"):
            worker = await cluster.add(worker_id)
            worker.script = lambda *_: cluster.text.encode("fox")

        for _ in range(4):
            assert await read_text(cluster.generate()) == "fox"

        if routing is Routing.ROUND_ROBIN:
            assert [len(worker.submissions) for worker in cluster.workers.values()] == [2, 2]


async def test_requests_outlive_redis(model_folder):
    async with open_cluster(model_folder) as cluster:
        worker = await cluster.add("decode-0")
        running = asyncio.create_task(read_text(cluster.generate()))
        first = await worker.submitted()

        cluster.redis.kill()
        begun_without = asyncio.create_task(read_text(cluster.generate()))
        second = await worker.submitted(2)
        for submission in (first, second):
            await submission.send(cluster.text.encode("fox"), end=FinishReason.LENGTH)

        assert await running == "fox"
        assert await begun_without == "fox"


async def test_a_worker_that_signs_off_ends_what_it_has_and_gets_nothing_new(model_folder):
    async with open_cluster(model_folder) as cluster:
        leaving = await cluster.add("decode-0")
        running = asyncio.create_task(read_text(cluster.generate()))
        submission = await leaving.submitted()
        staying = await cluster.add("decode-1")

        await cluster.announcers["decode-0"].stop()
        calls = await ask_until(lambda: len(staying.submissions) >= 8, cluster)
        num_others = len(leaving.submissions)
        calls += [cluster.generate() for _ in range(5)]
        await eventually(lambda: num_submissions(cluster) == len(calls) + 1)
        await submission.send(cluster.text.encode("fox"), end=FinishReason.LENGTH)

        assert await running == "fox"
        assert len(leaving.submissions) == num_others
        for call in calls:
            call.cancel()


@pytest.fixture
async def worker() -> AsyncIterator[FakeDecode]:
    worker = await FakeDecode().start()
    yield worker
    await worker.stop()


async def test_a_process_without_redis_serves_and_drains(worker, model_folder):
    text = load_text(model_folder)
    flags = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--grace-seconds", "20")
    command = ("-m", "services.gateway", *flags, "--decode", worker.address)
    with ServiceProcess(*command, "--model", str(model_folder)) as gateway:
        address = await asyncio.to_thread(lambda: gateway.address)
        http = gateway.wait_for("http door is open")["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            stub = stubs.GatewayServiceStub(channel)
            call = stub.Generate(pb.GenerateRequest(text="Hello", request_id="the-one"))
            submission = await worker.submitted()
            await submission.send(text.encode("the"))
            chunk = (await call.read()).chunk
            models = await asyncio.to_thread(get_json, f"http://{http}/v1/models")

            gateway.signal(signal.SIGTERM)
            await asyncio.to_thread(gateway.wait_for, "draining")
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.Generate(pb.GenerateRequest(text="Hello")).read()
            await submission.send(text.encode(" fox"), end=FinishReason.LENGTH)
            rest = (await call.read()).chunk
            final = (await call.read()).final

        exit_code = await asyncio.to_thread(gateway.wait)
        ended = gateway.wait_for("request ended")

    assert chunk.text + rest.text == "the fox"
    assert final.output_token_count == len(text.encode("the")) + len(text.encode(" fox"))
    assert models["data"][0]["id"] == "toy"
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert exit_code == 0
    assert (ended["request_id"], ended["outcome"], ended["finish_reasons"]) == (
        "the-one",
        "ok",
        "LENGTH",
    )
    assert ended["decode_workers"] == "decode-0"


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


async def test_a_folder_that_is_no_model_stops_the_start(tmp_path):
    command = ("-m", "services.gateway", "--decode", "127.0.0.1:1", "--model", str(tmp_path))
    with ServiceProcess(*command, "--listen", "127.0.0.1:0", "--http-listen", "") as gateway:
        code = await asyncio.to_thread(gateway.wait)

        assert code == 1
        assert "tokenizer.json" in gateway.output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--listen", "127.0.0.1:0"], "--listen is '127.0.0.1:0'"),
        (["--http-listen", "127.0.0.1:0"], "--http-listen is '127.0.0.1:0'"),
        (["--listen", "unix:/tmp/gateway"], "--listen is 'unix:/tmp/gateway'"),
    ],
)
def test_a_port_to_share_has_a_number(flags, words, capsys):
    with pytest.raises(SystemExit):
        load(Settings, argv=["--redis-url", "redis://127.0.0.1", "--share-port", *flags])

    assert words in capsys.readouterr().err


def test_an_own_address_is_for_gateways_that_share(capsys):
    with pytest.raises(SystemExit):
        load(Settings, argv=["--decode", "127.0.0.1:1", "--own-listen", "127.0.0.1:2"])

    assert "--own-listen is for --share-port" in capsys.readouterr().err
