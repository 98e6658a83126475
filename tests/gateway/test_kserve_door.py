"""The KServe door as clients that are not tritonclient may use it: by hand, badly, slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from baton.kserve.v2 import inference_pb2 as pb
from baton.kserve.v2 import inference_pb2_grpc as stubs
from baton.request import FinishReason, TokenLogprobs
from baton.rpc.serve import Process
from baton.rpc.settings import ServiceSettings
from services.gateway.kserve import SERVICE_NAME, InferenceService
from services.gateway.kserve.stream import MAX_REQUESTS
from tests.support.fake_decode import FakeDecode, eventually
from tests.support.gateway_world import World

# So that a client which does not read holds its server back early.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 14)]


@dataclass
class Door:
    """A client's stub, the core behind it, and a decode worker behind that."""

    world: World
    worker: FakeDecode
    process: Process
    channel: grpc.aio.Channel
    stub: Any


@pytest.fixture
async def door(world: World) -> AsyncIterator[Door]:
    worker = await world.add()
    process = Process("gateway", ServiceSettings(grace_seconds=2))
    service = InferenceService(world.core, 600, process.draining)
    process.register([SERVICE_NAME], service.register)
    await process.start()
    async with grpc.aio.insecure_channel(process.address, options=SMALL_WINDOW) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        yield Door(world, worker, process, channel, stub)
    await process.stop()


def request(text: str = "Hello", **fields: Any) -> pb.ModelInferRequest:
    """A request whose prompt is in typed contents."""
    message = pb.ModelInferRequest(**fields)
    tensor = message.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())
    return message


def raw_request(*parts: bytes, datatype: str = "BYTES", shape: Any = (1,)) -> pb.ModelInferRequest:
    """A request whose prompt is in raw contents."""
    message = pb.ModelInferRequest(raw_input_contents=parts)
    message.inputs.add(name="text_input", datatype=datatype, shape=shape)
    return message


def number(**value: Any) -> pb.InferParameter:
    return pb.InferParameter(**value)


def trailer(failure: grpc.aio.AioRpcError, key: str) -> str:
    return str(dict(failure.trailing_metadata() or ()).get(key))


async def test_typed_contents_and_every_kind_of_number_are_read(door):
    door.worker.script = lambda *_: door.world.ids("fox")
    message = request(id="mine")
    for name, value in {
        "max_tokens": number(uint64_param=3),
        "temperature": number(int64_param=1),
        "top_p": number(double_param=0.5),
        "seed": number(uint64_param=2**64 - 1),
        "ignore_eos": number(string_param="true"),
    }.items():
        message.parameters[name].CopyFrom(value)
    ids = message.inputs.add(name="stop_token_ids", datatype="UINT8", shape=[2])
    ids.contents.uint_contents.extend([5, 6])
    call = door.stub.ModelInfer(message)
    answer = await call
    sampling = door.worker.submissions[0].message.sampling

    assert answer.raw_output_contents[0] == b"\x03\x00\x00\x00fox"
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (3, 1.0, 0.5)
    assert (sampling.seed, sampling.ignore_eos) == (2**64 - 1, True)
    assert list(sampling.stop_token_ids) == [5, 6]
    assert dict(await call.initial_metadata())["x-request-id"] == "mine"


@pytest.mark.parametrize(
    ("message", "field", "words"),
    [
        (raw_request(b""), "text_input", "0 elements in 0 of its 0 bytes"),
        (raw_request(b"\x05\x00\x00"), "text_input", "breaks off: element 0 ends at byte 4 of 3"),
        (raw_request(b"\xff\xff\xff\xffab"), "text_input", "ends at byte 4,294,967,299 of 6"),
        (raw_request(b"\x01\x00\x00\x00ab"), "text_input", "1 elements in 5 of its 6 bytes"),
        (raw_request(b"\x01\x00\x00\x00\xff"), "text_input", "not UTF-8 at byte 0"),
        (raw_request(b"\x00" * 8, b"\x00"), "raw_input_contents", "2 parts for 1 inputs"),
        (
            raw_request(b"abc", datatype="INT32"),
            "text_input",
            "3 bytes; 1 elements of INT32 take 4",
        ),
        (raw_request(b"abcd", datatype="INT31"), "text_input", "datatype 'INT31'; known: BOOL"),
        (raw_request(b"abcd", datatype="BF16"), "text_input", "datatype 'BF16'; known: BOOL"),
        (raw_request(b"", shape=[-1]), "text_input", "-1 in its shape"),
        (raw_request(b"", shape=[1 << 62] * 9), "text_input", "9 dimensions; at most 8"),
        (raw_request(b"", shape=[1 << 62] * 8), "text_input", "exactly one is allowed"),
        (raw_request(shape=[2]), "text_input", "0 elements in bytes_contents; its shape asks for"),
        (
            request(inputs=[{"name": "top_k", "datatype": "FP16", "shape": [1]}]),
            "top_k",
            "raw cont",
        ),
        (request(inputs=[{"name": "text_input", "datatype": "BYTES"}]), "text_input", "0 elements"),
        (request(parameters={"top_k": number()}), "top_k", "top_k is None"),
        (request(parameters={"seed": number(int64_param=-1)}), "seed", "seed is -1"),
        (request(parameters={"min_p": number(double_param=float("nan"))}), "min_p", "min_p is nan"),
        (request(parameters={"triton_x": number(bool_param=True)}), "triton_x", "is not known"),
        (pb.ModelInferRequest(), "text_input", "text_input is missing"),
    ],
)
async def test_malformed_requests_name_what_is_wrong_and_reach_no_worker(
    door, message, field, words
):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await door.stub.ModelInfer(message)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in str(failure.value.details())
    assert trailer(failure.value, "baton-field") == field
    assert trailer(failure.value, "baton-reason") == "INVALID_REQUEST"
    assert door.worker.submissions == []


async def test_shared_memory_is_refused_by_the_name_of_its_parameter(door):
    message = request()
    message.inputs[0].parameters["shared_memory_region"].string_param = "mine"

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await door.stub.ModelInfer(message)

    assert "has the parameter 'shared_memory_region'" in str(failure.value.details())


async def test_calls_of_the_protocol_that_are_left_out_are_unimplemented(door):
    call = door.channel.unary_unary(f"/{SERVICE_NAME}/RepositoryModelLoad")

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(b"")

    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_and_reflection_know_the_service(door):
    asked = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
    health = await health_pb2_grpc.HealthStub(door.channel).Check(asked)
    reflection = reflection_pb2_grpc.ServerReflectionStub(door.channel)
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME)
    [found] = [answer async for answer in reflection.ServerReflectionInfo(iter([question]))]

    assert SERVICE_NAME == "inference.GRPCInferenceService"
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert b"ModelStreamInfer" in found.file_descriptor_response.file_descriptor_proto[0]


async def test_an_error_on_a_stream_carries_id_reason_and_field(door):
    call = door.stub.ModelStreamInfer(iter([request(id="a", model_name="other")]))
    [response] = [response async for response in call]

    inner = response.infer_response
    assert response.error_message.startswith("[request id: a] model 'other' is not served")
    assert (inner.id, inner.parameters["triton_final_response"].bool_param) == ("a", True)
    assert inner.parameters["baton-reason"].string_param == "UNKNOWN_MODEL"
    assert inner.parameters["baton-field"].string_param == "model"


async def test_more_requests_than_a_stream_may_run_wait_their_turn(door):
    door.worker.script = lambda *_: door.world.ids("fox")
    door.worker.gate.clear()
    num_requests = MAX_REQUESTS + 20
    call = door.stub.ModelStreamInfer(iter([request(id=str(n)) for n in range(num_requests)]))
    answers = asyncio.create_task(collect(call))
    # Those that the worker has no room for wait in the gateway, and count.
    await eventually(lambda: door.world.core.num_requests >= MAX_REQUESTS)

    num_at_a_time = door.world.core.num_requests
    door.worker.gate.set()
    ended = {r.infer_response.id for r in await answers if not r.error_message}

    assert num_at_a_time == MAX_REQUESTS
    assert ended == {str(n) for n in range(num_requests)}


async def collect(call: Any) -> list[Any]:
    return [response async for response in call]


async def test_one_requests_defect_leaves_the_others_alone(door, monkeypatch):
    door.worker.script = lambda *_: door.world.ids("fox")
    encode = door.world.core.encode

    async def break_on_hello(text: Any, prompt: str, add_special_tokens: bool = True) -> Any:
        if prompt == "Hello":
            raise RuntimeError("a defect of ours")
        return await encode(text, prompt, add_special_tokens)

    monkeypatch.setattr(door.world.core, "encode", break_on_hello)
    call = door.stub.ModelStreamInfer(iter([request(id="a"), request("fox", id="b")]))
    responses = await collect(call)

    errors = [response for response in responses if response.error_message]
    assert [error.infer_response.id for error in errors] == ["a"]
    assert errors[0].error_message.endswith("RuntimeError in ModelStreamInfer")
    assert {r.infer_response.id for r in responses if not r.error_message} == {"b"}


async def test_a_client_that_does_not_read_is_sent_merged_parts(door):
    """Enough to fill the transport's window: then writing waits, and each request's parts grow."""
    fox = door.world.ids("fox")[0]
    message = request(parameters={"logprobs": number(int64_param=20)})
    call = door.stub.ModelStreamInfer(iter([message, message]))
    submissions = [await door.worker.submitted(number_) for number_ in (1, 2)]
    top = tuple((fox, -1.0) for _ in range(2000))
    num_frames = 50
    for turn in range(num_frames):
        end = FinishReason.LENGTH if turn == num_frames - 1 else None
        for submission in submissions:
            await submission.send([fox], logprobs=[TokenLogprobs(fox, -1.0, top)], end=end)
    await eventually(lambda: door.world.fleet.decode_workers("toy")["decode-0"].link.num_open == 0)
    responses = await collect(call)

    for id_ in {submission.request_id for submission in submissions}:
        parts = [r.infer_response for r in responses if r.infer_response.id == id_]
        shapes = [list(output.shape) for p in parts for output in p.outputs]
        num_tokens = sum(shape[0] for shape in shapes if shape[1:] == [2000]) // 2
        assert num_tokens == num_frames
        assert len(parts) < num_frames


async def test_a_gateway_that_drains_ends_a_stream_behind_its_answers(door):
    door.worker.gate.clear()
    door.worker.script = lambda *_: door.world.ids("fox")
    call = door.stub.ModelStreamInfer()
    message = request(id="a", parameters={"stream": number(bool_param=False)})
    await call.write(message)
    await door.worker.submitted()

    stopping = asyncio.create_task(door.process.stop())
    await door.process.draining.wait()
    door.worker.gate.set()
    first = await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    await stopping

    assert first.infer_response.id == "a"
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "open a new stream" in str(failure.value.details())


@pytest.mark.parametrize(
    "message",
    [
        request(parameters={"größe\n": number(bool_param=True)}),
        request(parameters={"x" * 100_000: number(bool_param=True)}),
        request(parameters={"top_k": number(string_param="😀" * 100_000)}),
        request(inputs=[{"name": "😀" * 100_000, "datatype": "?"}]),
        request(outputs=[{"name": "😀" * 100_000}]),
        request(model_version="😀" * 100_000),
    ],
)
async def test_names_that_fit_no_header_are_refused_like_others(door, message):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await door.stub.ModelInfer(message)

    assert failure.value.code() in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
    )
    assert trailer(failure.value, "baton-reason") in ("INVALID_REQUEST", "UNKNOWN_MODEL")


async def test_a_model_whose_name_fits_no_header_is_not_found(door):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await door.stub.ModelInfer(request(model_name="😀" * 100_000))

    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x01\xff", b"\x2a\x7fab"])
async def test_bytes_that_are_no_message_are_refused_by_both_calls(door, raw):
    unary = door.channel.unary_unary(f"/{SERVICE_NAME}/ModelInfer")(raw)
    stream = door.channel.stream_stream(f"/{SERVICE_NAME}/ModelStreamInfer")(iter([raw]))

    for answer in (unary, stream.read()):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await answer
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
