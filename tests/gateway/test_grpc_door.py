"""`baton.v1.GatewayService` as a client on a real socket sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from baton.errors import Overloaded
from baton.request import FinishReason, SequenceTimings, TokenLogprobs
from baton.rpc.serve import Process
from baton.rpc.settings import ServiceSettings
from baton.v1 import gateway_pb2 as pb
from baton.v1 import gateway_pb2_grpc as stubs
from baton.v1 import types_pb2
from services.gateway.grpc_door import SERVICE_NAME, GatewayService
from tests.support.fake_decode import FakeDecode, eventually
from tests.support.gateway_world import World

# So that a client which does not read holds its server back early.
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 14)]


class Door:
    """A client's stub, the core behind it, and a decode worker behind that."""

    def __init__(self, world: World, worker: FakeDecode, stub: stubs.GatewayServiceStub) -> None:
        self.world = world
        self.worker = worker
        self.stub = stub

    def generate(self, **fields: Any) -> Any:
        """A call to Generate."""
        options = {name: fields.pop(name) for name in ("metadata", "timeout") if name in fields}
        fields.setdefault("text", "Hello")
        if not {"chat", "token_ids"}.isdisjoint(fields):
            del fields["text"]
        return self.stub.Generate(pb.GenerateRequest(**fields), **options)


@pytest.fixture
async def door(world: World) -> AsyncIterator[Door]:
    worker = await world.add()
    process = Process("gateway", ServiceSettings())
    process.register([SERVICE_NAME], GatewayService(world.core, max_timeout_s=600).register)
    await process.start()
    async with grpc.aio.insecure_channel(process.address, options=SMALL_WINDOW) as channel:
        yield Door(world, worker, stubs.GatewayServiceStub(channel))
    await process.stop()


async def test_an_answer_streams_and_ends_with_its_account(door):
    world, ids = door.world, door.world.ids("the quick fox")
    call = door.generate(request_id="my-request", return_token_ids=True, sampling=greedy(seed=7))
    submission = await door.worker.submitted()
    timings = SequenceTimings(queue_us=5, cached_token_count=1)

    await submission.send(ids)
    first = await call.read()
    await submission.send([world.eos], end=FinishReason.STOP, timings=timings)
    rest = [message async for message in reader(call)]

    assert first.chunk.text == "the quick fox"
    assert list(first.chunk.token_ids) == ids
    assert first.chunk.finish_reason == types_pb2.FINISH_REASON_UNSPECIFIED
    assert rest[0].chunk.stop_token_id == world.eos
    assert rest[0].chunk.finish_reason == types_pb2.FINISH_REASON_STOP
    final = rest[1].final
    assert (final.request_id, final.model, final.seed) == ("my-request", "toy", 7)
    assert final.prompt_token_count == len(world.ids("Hello"))
    assert final.output_token_count == len(ids) + 1
    assert final.samples[0].timings.queue_us == 5
    assert final.samples[0].decode_worker_id == "decode-0"
    assert 0 < final.ttft_us <= final.total_us
    assert dict(await call.initial_metadata())["x-request-id"] == "my-request"
    assert len(rest) == 2


async def test_every_parameter_arrives_at_the_worker(door):
    sampling = greedy(
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.125,
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        max_tokens=9,
        min_tokens=2,
        stop_token_ids=[5],
        stop_strings=["STOP"],
        ignore_eos=True,
        seed=2**63,
        logprobs_count=3,
        logit_bias={4: -1.5},
    )
    door.generate(sampling=sampling, priority=-3, cache_salt="salt", sample_count=2)
    message = (await door.worker.submitted()).message

    assert message.sampling == sampling
    assert (message.priority, message.cache_salt, message.sample_count) == (-3, "salt", 2)


async def test_a_conversation_is_rendered_by_the_models_template(door):
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="Hello")])
    door.generate(chat=chat)
    submission = await door.worker.submitted()

    text = door.world.text
    assert text.decode(submission.token_ids, skip_special_tokens=False) == text.render_chat(
        [{"role": "user", "content": "Hello"}]
    )


async def test_token_ids_are_taken_as_they_are(door):
    door.generate(token_ids=pb.TokenIds(ids=[9, 8, 7]))
    submission = await door.worker.submitted()

    assert submission.token_ids == [9, 8, 7]


async def test_chunks_that_would_say_nothing_are_not_sent(door):
    call = door.generate(sampling=greedy(stop_strings=["the end"]))
    submission = await door.worker.submitted()

    # Held back: it may be the beginning of the stop string.
    await submission.send(door.world.ids("the"))
    await submission.send(door.world.ids(" fox"), end=FinishReason.LENGTH)
    messages = [message async for message in call]

    assert [m.WhichOneof("event") for m in messages] == ["chunk", "final"]
    assert messages[0].chunk.text == "the fox"
    assert messages[0].chunk.token_ids == []


async def test_text_may_be_left_out(door):
    call = door.generate(omit_text=True, return_token_ids=True)
    submission = await door.worker.submitted()
    await submission.send(door.world.ids("fox"), end=FinishReason.LENGTH)
    messages = [message async for message in call]

    assert messages[0].chunk.text == ""
    assert list(messages[0].chunk.token_ids) == door.world.ids("fox")


async def test_log_probabilities_come_with_the_tokens_text(door):
    fox, dog = door.world.ids("fox")[0], door.world.ids("dog")[0]
    call = door.generate(sampling=greedy(logprobs_count=1))
    submission = await door.worker.submitted()
    entry = TokenLogprobs(fox, -0.25, ((dog, -1.5),))
    await submission.send([fox], logprobs=[entry], end=FinishReason.LENGTH)
    chunk = (await call.read()).chunk

    [position] = chunk.logprobs
    assert position.chosen.text == door.world.text.token_text(fox)
    assert position.chosen.logprob == pytest.approx(-0.25)
    assert position.top[0].text == door.world.text.token_text(dog)


async def test_a_client_that_cancels_frees_the_worker(door):
    call = door.generate()
    submission = await door.worker.submitted()
    await submission.send(door.world.ids("the"))
    await call.read()

    call.cancel()
    await door.worker.cancelled(submission)

    await eventually(lambda: door.world.core.num_requests == 0)


async def test_the_calls_deadline_shortens_the_requests(door):
    call = door.generate(timeout=0.4, timeout_ms=60_000)
    submission = await door.worker.submitted()

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    await door.worker.cancelled(submission)

    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert submission.message.timeout_ms <= 400


async def test_the_requests_own_timeout_ends_it_with_a_reason(door):
    call = door.generate(timeout_ms=200)
    await door.worker.submitted()

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()

    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert trailer(failure.value, "baton-reason") == "DEADLINE_EXCEEDED"


async def test_the_clients_trace_goes_on_to_the_worker_and_into_the_final(door):
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = [("traceparent", f"00-{trace}-b7ad6b7169203331-01")]
    call = door.generate(metadata=metadata)
    submission = await door.worker.submitted()
    await submission.send(end=FinishReason.LENGTH)
    messages = [message async for message in call]

    assert submission.message.traceparent.split("-")[1] == trace
    assert messages[-1].final.trace_id == trace


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_id": "x" * 129}, "request_id"),
        ({"request_id": "two words"}, "request_id"),
        ({"request_id": "größe"}, "request_id"),
        ({"text": ""}, "text"),
        ({"token_ids": pb.TokenIds()}, "token_ids"),
        ({"token_ids": pb.TokenIds(ids=[10**6])}, "token_ids"),
        ({"chat": pb.ChatPrompt()}, "messages"),
        ({"sample_count": 129}, "sample_count"),
        ({"sampling": types_pb2.SamplingParams(temperature=3)}, "temperature"),
        ({"sampling": types_pb2.SamplingParams(max_tokens=100)}, "max_tokens"),
    ],
)
async def test_bad_input_names_its_field_and_reaches_no_worker(door, fields, field):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await door.generate(**fields).read()

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert trailer(failure.value, "baton-field") == field
    assert door.worker.submissions == []


async def test_an_unknown_model_is_not_found(door):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await door.generate(model="other").read()

    assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    assert "toy" in str(failure.value.details())


async def test_a_workers_error_keeps_its_name(door):
    call = door.generate(sampling=greedy(max_tokens=2))
    for number in range(1, 5):  # the request and all its migrations
        submission = await door.worker.submitted(number)
        await submission.fail(Overloaded("128 sequences wait; the limit is 128"))

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert trailer(failure.value, "baton-reason") == "OVERLOADED"


@pytest.mark.parametrize("request_id", ["my-request", ""])
async def test_the_request_id_is_in_an_errors_trailers(door, request_id):
    bad = door.generate(request_id=request_id, sampling=greedy(temperature=9))
    astray = door.generate(request_id=request_id, model="nobody's")

    for call, code in ((bad, "INVALID_ARGUMENT"), (astray, "NOT_FOUND")):
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            [message async for message in call]
        named = trailer(failure.value, "x-request-id")
        assert failure.value.code().name == code
        assert named == dict(await call.initial_metadata())["x-request-id"]
        assert named == request_id or (not request_id and len(named) == 32)


async def test_text_becomes_tokens_and_tokens_become_text(door):
    text = "Hello world 😀"
    tokens = await door.stub.Tokenize(pb.TokenizeRequest(text=text))
    back = await door.stub.Detokenize(pb.DetokenizeRequest(token_ids=tokens.token_ids))

    assert list(tokens.token_ids) == door.world.text.encode(text)
    assert back.text == text


async def test_special_tokens_show_when_kept(door):
    ids = [door.world.eos]
    hidden = await door.stub.Detokenize(pb.DetokenizeRequest(token_ids=ids))
    shown = await door.stub.Detokenize(
        pb.DetokenizeRequest(token_ids=ids, keep_special_tokens=True)
    )

    assert (hidden.text, shown.text) == ("", "<|im_end|>")


async def test_a_conversation_becomes_the_tokens_that_generate_would_use(door):
    chat = pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content="Hello")])
    tokens = await door.stub.Tokenize(pb.TokenizeRequest(chat=chat))

    expected = door.world.text.encode_chat([{"role": "user", "content": "Hello"}])
    assert list(tokens.token_ids) == expected


@pytest.mark.parametrize(
    "request_", [pb.TokenizeRequest(), pb.TokenizeRequest(chat=pb.ChatPrompt())]
)
async def test_nothing_to_tokenize_is_an_error(door, request_):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await door.stub.Tokenize(request_)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert trailer(failure.value, "baton-field") == "input"


async def test_ids_beyond_the_vocabulary_cannot_be_detokenized(door):
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await door.stub.Detokenize(pb.DetokenizeRequest(token_ids=[10**6]))

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_models_are_listed_with_their_workers(door):
    answer = await door.stub.ListModels(pb.ListModelsRequest())

    assert [(m.name, m.context_len, m.decode_worker_count) for m in answer.models] == [
        ("toy", 64, 1)
    ]


async def test_a_client_that_does_not_read_is_sent_merged_chunks(door):
    """Enough text to fill the transport's window: then writing waits, and chunks grow."""
    fox = door.world.ids("fox")[0]
    call = door.generate(sampling=greedy(logprobs_count=20, max_tokens=60), return_token_ids=True)
    submission = await door.worker.submitted()
    top = tuple((fox, -1.0) for _ in range(2000))
    num_frames = 50
    for number in range(num_frames):
        end = FinishReason.LENGTH if number == num_frames - 1 else None
        await submission.send([fox], logprobs=[TokenLogprobs(fox, -1.0, top)], end=end)
    await eventually(lambda: door.world.fleet.decode_workers("toy")["decode-0"].link.num_open == 0)
    messages = [message async for message in call]

    chunks = [m.chunk for m in messages if m.HasField("chunk")]
    assert [t for chunk in chunks for t in chunk.token_ids] == [fox] * num_frames
    assert len(chunks) < num_frames
    assert messages[-1].HasField("final")


def greedy(**fields: Any) -> types_pb2.SamplingParams:
    """Sampling parameters that leave nothing to the model's defaults."""
    values: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20, **fields}
    return types_pb2.SamplingParams(**values)


async def reader(call: Any) -> AsyncIterator[pb.GenerateResponse]:
    """The rest of a call that was begun with `read`."""
    while (message := await call.read()) is not grpc.aio.EOF:
        yield message


def trailer(failure: grpc.aio.AioRpcError, key: str) -> str:
    return str(dict(failure.trailing_metadata() or ()).get(key))


def test_the_service_is_known_by_its_full_name():
    assert SERVICE_NAME == "baton.v1.GatewayService"
    assert asyncio.iscoroutinefunction(GatewayService.Tokenize)
