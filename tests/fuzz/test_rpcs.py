"""Every RPC of every process against messages that nobody would send.

No call may end in a defect, no process may die, every call ends, and afterwards all is as before.
`BATON_FUZZ_EXAMPLES` sets how many calls each method gets (12).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baton.client import Chunk, Client, Sampling
from baton.v1 import (
    decode_pb2,
    decode_pb2_grpc,
    gateway_pb2,
    kvstore_pb2,
    prefill_pb2,
    worker_pb2,
    worker_pb2_grpc,
)
from tests.support.cluster import Cluster
from tests.support.fake_decode import eventually
from tests.support.wire_fuzz import wire

EXAMPLES = int(os.environ.get("BATON_FUZZ_EXAMPLES", "12"))
CALL_SECONDS = 0.5
"""A stream that waits for more ends by this deadline; it is the fuzzer's, not an answer."""
PROMPT = "What is a generator?"
WORKERS = ("prefill-0", "decode-0")

SERVICES = [
    ("gateway-0", gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"]),
    ("decode-0", decode_pb2.DESCRIPTOR.services_by_name["DecodeService"]),
    ("prefill-0", prefill_pb2.DESCRIPTOR.services_by_name["PrefillService"]),
    ("decode-0", worker_pb2.DESCRIPTOR.services_by_name["WorkerService"]),
    ("kvstore-0", kvstore_pb2.DESCRIPTOR.services_by_name["KvStoreService"]),
    ("gateway-0", health_pb2.DESCRIPTOR.services_by_name["Health"]),
]
METHODS = [
    pytest.param(process, method, id=method.full_name)
    for process, service in SERVICES
    for method in service.methods
]

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("fuzz")
    with Cluster(folder, engine="echo") as cluster:
        yield cluster


@pytest.mark.parametrize(("process", "method"), METHODS)
def test_no_message_is_a_defect_and_nothing_is_left_behind(
    cluster: Cluster, process: str, method: MethodDescriptor
) -> None:
    before = {worker: free_blocks(cluster, worker) for worker in WORKERS}
    expected = answer(cluster)
    frames = st.lists(wire(method.input_type), min_size=1, max_size=4)

    with grpc.insecure_channel(cluster.address(process)) as channel:

        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        @given(frames if method.client_streaming else frames.map(lambda frames: frames[:1]))
        def fuzz(frames: list[bytes]) -> None:
            code, details = call(channel, method, frames)
            is_garbage = not all(parses(method, frame) for frame in frames)
            assert code is not grpc.StatusCode.UNKNOWN, details
            # grpc itself answers so where it can't read a message.
            assert code is not grpc.StatusCode.INTERNAL or is_garbage, details
            assert cluster.is_running(process), "the process died"

        fuzz()

    assert all(cluster.is_running(name) for name in cluster.names)
    assert answer(cluster) == expected
    for worker, count in before.items():
        wait_for_blocks(cluster, worker, count)


def call(
    channel: grpc.Channel, method: MethodDescriptor, frames: list[bytes]
) -> tuple[grpc.StatusCode, str]:
    """One call with raw bytes; how it ended."""
    kind = "_".join(
        "stream" if is_stream else "unary"
        for is_stream in (method.client_streaming, method.server_streaming)
    )
    path = f"/{method.containing_service.full_name}/{method.name}"
    start = getattr(channel, kind)(path)
    request = iter(frames) if method.client_streaming else frames[0]
    try:
        answers = start(request, timeout=CALL_SECONDS)
        if method.server_streaming:
            for _ in answers:
                pass
    except grpc.RpcError as failure:
        ended: Any = failure  # it is the call
        return ended.code(), str(ended.details())
    return grpc.StatusCode.OK, ""


def parses(method: MethodDescriptor, frame: bytes) -> bool:
    """Whether a frame is a message of the method's input."""
    try:
        GetMessageClass(method.input_type).FromString(frame)
    except DecodeError:
        return False
    return True


def answer(cluster: Cluster) -> str:
    """What a normal request gets."""
    with Client(cluster.address()) as client:
        events = client.generate(PROMPT, Sampling(max_tokens=8, temperature=0.0), timeout_s=20)
        return "".join(event.text for event in events if isinstance(event, Chunk))


def free_blocks(cluster: Cluster, worker: str) -> int:
    """Blocks that no sequence holds."""
    with grpc.insecure_channel(cluster.address(worker)) as channel:
        stub = worker_pb2_grpc.WorkerServiceStub(channel)
        count: int = stub.GetWorker(worker_pb2.GetWorkerRequest(), timeout=5).free_block_count
        return count


def wait_for_blocks(cluster: Cluster, worker: str, count: int) -> None:
    """What was cancelled frees its blocks at the engine's next step."""
    asyncio.run(
        eventually(lambda: free_blocks(cluster, worker) >= count, f"{worker} has {count} free")
    )


@pytest.mark.parametrize(
    "fields",
    [{"sample_count": 2**32 - 1}, {"token_ids": b"abc"}, {"sampling": {"guide": {"kind": 99}}}],
)
def test_a_submission_that_no_gateway_sends_ends_alone(cluster: Cluster, fields: Any) -> None:
    bad = decode_pb2.SubmitSequence(handle=1, **{"token_ids": b"\5\0\0\0", **fields})
    good = decode_pb2.SubmitSequence(
        handle=2, token_ids=b"\5\0\0\0", prompt_len=1, sample_count=1, timeout_ms=5000
    )
    good.sampling.max_tokens = 1
    good.sampling.top_p = 1.0
    good.sampling.repetition_penalty = 1.0
    frame = decode_pb2.DecodeConnectRequest(gateway_id="odd", submits=[bad, good])
    ends = {}
    with grpc.insecure_channel(cluster.address("decode-0")) as channel:
        stub = decode_pb2_grpc.DecodeServiceStub(channel)
        gate = threading.Event()

        def frames() -> Iterator[decode_pb2.DecodeConnectRequest]:
            yield frame
            gate.wait(10)

        for response in stub.Connect(frames(), timeout=10):
            ends |= {d.handle: d.end for d in response.deltas if d.HasField("end")}
            if len(ends) == 2:
                gate.set()

    assert ends[1].error.reason == "INVALID_REQUEST"
    assert ends[2].error.reason == ""
