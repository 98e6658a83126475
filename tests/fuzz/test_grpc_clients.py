"""gRPC clients that keep no rules, against the doors of a real process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest

from baton.v1 import gateway_pb2 as pb
from baton.v1 import gateway_pb2_grpc as stubs
from baton.v1 import types_pb2
from tests.support.cluster import Cluster
from tests.support.decode_client import until_free
from tests.support.exposition import sample_sum
from tests.support.fake_decode import eventually
from tests.support.raw_http import RawClient, assert_openai_error

pytestmark = pytest.mark.cluster

MB = 1 << 20
GENERATE = "/baton.v1.GatewayService/Generate"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def asking(max_tokens: int, sample_count: int = 1) -> pb.GenerateRequest:
    sampling = types_pb2.SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return pb.GenerateRequest(text="hello", sampling=sampling, sample_count=sample_count)


SHORT, LONG = asking(4), asking(1000, sample_count=64)


@pytest.fixture
def channel(victim: Cluster) -> Iterator[grpc.Channel]:
    """A connection of the test's own; behind it all is free and answers as before."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    # The client's own limit would refuse what the server is to refuse.
    options.append(("grpc.max_send_message_length", -1))
    with grpc.insecure_channel(victim.address(), options) as channel:
        yield channel
    assert all(victim.is_running(name) for name in victim.names)
    with grpc.insecure_channel(victim.address(), options) as channel:
        answers = list(stubs.GatewayServiceStub(channel).Generate(SHORT, timeout=10))
    assert "".join(answer.chunk.text for answer in answers) == "hello"
    asyncio.run(until_free(victim.address("decode-0"), 15))


def code_of(call: grpc.Call) -> grpc.StatusCode:
    """How a call ends that must not end well."""
    with pytest.raises(grpc.RpcError):
        for _ in call:
            pass
    return call.code()


def raw(channel: grpc.Channel, message: bytes) -> grpc.Call:
    return channel.unary_stream(GENERATE)(message, timeout=10)


def becomes_busy(victim: Cluster) -> None:
    url = victim.metrics_url("decode-0")
    asyncio.run(eventually(lambda: sample_sum(url, "baton_running_sequences") > 0, "busy"))


def test_a_huge_message_is_refused(channel: grpc.Channel) -> None:
    assert code_of(raw(channel, bytes(100 * MB))) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_text_that_is_no_utf8_is_the_clients_mistake(channel: grpc.Channel) -> None:
    text = b"\x1a\x04ab\xff\xfe"

    assert code_of(raw(channel, text)) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_deadline_that_is_over_ends_the_call(channel: grpc.Channel) -> None:
    generate = stubs.GatewayServiceStub(channel).Generate

    for timeout in (0, 1e-9, -1):
        assert code_of(generate(SHORT, timeout=timeout)) is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_client_that_never_reads_holds_up_nobody(victim: Cluster, channel: grpc.Channel) -> None:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.lookahead_bytes", 1024)]
    with grpc.insecure_channel(victim.address(), options) as silent:
        calls = [stubs.GatewayServiceStub(silent).Generate(LONG, timeout=30) for _ in range(2)]
        becomes_busy(victim)
        for _ in range(5):
            assert list(stubs.GatewayServiceStub(channel).Generate(SHORT, timeout=10))
        # The worker does not wait for the client.
        asyncio.run(until_free(victim.address("decode-0"), 30))
        for call in calls:
            call.cancel()


def test_a_connection_that_vanishes_frees_its_blocks(
    victim: Cluster, channel: grpc.Channel
) -> None:
    with grpc.insecure_channel(victim.address(), [("grpc.use_local_subchannel_pool", 1)]) as gone:
        call = stubs.GatewayServiceStub(gone).Generate(LONG, timeout=30)
        # Kept, since a call that nobody holds is cancelled.
        assert next(call)

    asyncio.run(until_free(victim.address("decode-0"), 2))


def test_two_thousand_cancelled_calls_leave_nothing(channel: grpc.Channel) -> None:
    generate = stubs.GatewayServiceStub(channel).Generate
    for _ in range(20):
        for call in [generate(LONG, timeout=30) for _ in range(100)]:
            call.cancel()


@pytest.mark.parametrize(
    "sent",
    [
        bytes(range(256)) * 10,
        PREFACE + b"\xff" * 1000,
        PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\xff\xff\xff\x01\x05\x00\x00\x00\x01",
        b"POST /baton.v1.GatewayService/Generate HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_what_is_no_grpc_ends_its_connection(
    victim: Cluster, channel: grpc.Channel, sent: bytes
) -> None:
    with RawClient(f"http://{victim.address()}") as client:
        client.send_all_it_takes(sent, 1)
        while not client.has_ended():
            pass


def test_a_reset_in_the_middle_of_a_frame_is_only_that(
    victim: Cluster, channel: grpc.Channel
) -> None:
    for _ in range(50):
        with RawClient(f"http://{victim.address()}") as client:
            client.send(PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x10")
            client.reset()


def test_grpc_at_the_http_door_is_refused(victim: Cluster, channel: grpc.Channel) -> None:
    with RawClient(victim.http_url()) as client:
        assert_openai_error(client.send(PREFACE).reply())
