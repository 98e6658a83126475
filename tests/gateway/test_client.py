"""`baton.client` against the gRPC door on a real socket, in front of a fake gateway."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from baton.client import AsyncClient, Chunk, Client, Events, Final, Sampling
from baton.errors import (
    BatonError,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    NoWorker,
    Overloaded,
    UnknownModel,
    WorkerLost,
)
from baton.request import FinishReason
from baton.rpc.status import StatusInterceptor
from baton.text import ModelText
from services.gateway.grpc_door import GatewayService
from tests.support.fake_decode import eventually
from tests.support.fake_gateway import ANSWER, FakeGateway

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Served:
    """A gateway and two clients of it."""

    gateway: FakeGateway
    address: str
    client: AsyncClient

    async def collect(self, prompt: Any, *args: Any, **options: Any) -> tuple[str, Final]:
        """The text of sample 0 and the final."""
        events = [event async for event in self.client.generate(prompt, *args, **options)]
        *chunks, final = events
        assert isinstance(final, Final)
        assert all(isinstance(chunk, Chunk) for chunk in chunks)
        return "".join(chunk.text for chunk in chunks if chunk.sample_index == 0), final


@pytest.fixture
async def served(toy_text: ModelText) -> AsyncIterator[Served]:
    gateway = FakeGateway(toy_text)
    server = grpc.aio.server(interceptors=(StatusInterceptor(),))
    GatewayService(gateway, max_timeout_s=60).register(server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with AsyncClient(address) as client:
        yield Served(gateway, address, client)
    await server.stop(None)


def blocking(served: Served, **options: Any) -> list[Chunk | Final]:
    with Client(served.address) as client:
        return list(client.generate("hello", Sampling(max_tokens=50), **options))


async def test_text_streams_and_ends_with_a_final(served: Served, toy_text: ModelText) -> None:
    served.gateway.num_cached_tokens = 2

    text, final = await served.collect("hello", request_id="r1")

    assert text == ANSWER
    assert (final.request_id, final.model) == ("r1", "toy")
    assert final.num_prompt_tokens == len(toy_text.encode("hello"))
    assert final.num_output_tokens == len(toy_text.encode(ANSWER))
    assert final.num_cached_tokens == 2
    assert final.samples[0].finish_reason is FinishReason.STOP
    assert final.samples[0].decode_worker_id == "decode-1"
    assert final.seed == served.gateway.commands[0].sampling.seed


async def test_the_blocking_client_says_the_same(served: Served) -> None:
    *chunks, final = await asyncio.to_thread(blocking, served)

    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, Chunk)) == ANSWER
    assert isinstance(final, Final)


async def test_every_field_reaches_the_gateway(served: Served) -> None:
    sampling = Sampling(
        temperature=0.25,
        top_p=0.5,
        top_k=9,
        min_p=0.125,
        repetition_penalty=1.25,
        presence_penalty=-1.5,
        frequency_penalty=1.5,
        max_tokens=11,
        min_tokens=3,
        stop_token_ids=[4],
        stop_strings=["a\n"],
        ignore_eos=True,
        seed=2**64 - 1,
        logprobs_count=2,
        logit_bias={7: 2.5},
    )
    await served.collect(
        "hello",
        sampling,
        sample_count=2,
        model="toy",
        cache_salt="tenant",
        priority=-7,
        timeout_s=5,
        omit_text=True,
        traceparent=f"00-{'1' * 32}-{'2' * 16}-01",
    )

    (command,) = served.gateway.commands
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "ignore_eos"):
        assert getattr(command.sampling, name) == getattr(sampling, name)
    for name in ("presence_penalty", "frequency_penalty", "max_tokens", "min_tokens", "seed"):
        assert getattr(command.sampling, name) == getattr(sampling, name)
    assert command.sampling.stop_token_ids == (4,)
    assert command.sampling.stop_strings == ("a\n",)
    assert command.sampling.logprobs_count == 2
    assert dict(command.sampling.logit_bias) == {7: 2.5}
    assert (command.sample_count, command.cache_salt, command.priority) == (2, "tenant", -7)
    assert (command.want_text, command.timeout_s) == (False, 5)
    assert command.traceparent == f"00-{'1' * 32}-{'2' * 16}-01"


async def test_a_prompt_may_be_a_conversation_or_token_ids(
    served: Served, toy_text: ModelText
) -> None:
    messages = [{"role": "user", "content": "hello"}]

    await served.collect(messages)
    await served.collect([5, 6])

    chat, ids = served.gateway.commands
    assert chat.token_ids == tuple(toy_text.encode_chat(messages))
    assert ids.token_ids == (5, 6)


async def test_chunks_carry_tokens_and_logprobs_when_asked(
    served: Served, toy_text: ModelText
) -> None:
    events = served.client.generate("hello", Sampling(logprobs_count=1), return_token_ids=True)

    chunks = [event async for event in events if isinstance(event, Chunk)]

    ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
    positions = [position for chunk in chunks for position in chunk.logprobs]
    assert ids == toy_text.encode(ANSWER)
    assert [position.chosen.token_id for position in positions] == ids
    assert positions[0].chosen.text == "The"
    assert positions[0].top[0].logprob == -0.5
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert chunks[0].finish_reason is None


async def test_a_stop_string_is_reported(served: Served) -> None:
    events = served.client.generate("hello", Sampling(stop_strings=["passed"]))

    *_, last = [event async for event in events if isinstance(event, Chunk)]

    assert (last.finish_reason, last.stop_string) == (FinishReason.STOP, "passed")


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("full", retry_after_s=2.5),
        NoWorker("no worker"),
        UnknownModel("unknown", field="model"),
        WorkerLost("gone"),
        DeadlineExceeded("late"),
    ],
)
@pytest.mark.parametrize("fail_at", [0, 2])
async def test_clients_raise_what_the_gateway_raised(
    served: Served, error: BatonError, fail_at: int
) -> None:
    served.gateway.error = error
    served.gateway.fail_at = fail_at

    with pytest.raises(BatonError) as raised:
        await served.collect("hello")
    served.gateway.num_chunks = 0
    with pytest.raises(BatonError) as raised_blocking:
        await asyncio.to_thread(blocking, served)

    for failure in (raised.value, raised_blocking.value):
        assert type(failure) is type(error)
        assert failure.message == error.message
        assert failure.field == error.field
        assert failure.retry_after_s == error.retry_after_s


async def test_a_defect_of_the_gateway_is_an_engine_failure(served: Served) -> None:
    served.gateway.error = RuntimeError("boom")

    with pytest.raises(EngineFailed):
        await served.collect("hello")


@pytest.mark.parametrize("prompt", ["", [], [-1], ["words"], [{"role": "user"}], None])
async def test_a_prompt_that_cannot_be_sent_is_refused_at_once(served: Served, prompt: Any) -> None:
    with pytest.raises(InvalidRequest):
        await served.collect(prompt)

    assert served.gateway.commands == []


async def test_leaving_the_loop_early_cancels_the_request(served: Served) -> None:
    served.gateway.gate_at = 2
    async with served.client.generate("hello") as events:
        await anext(events)
        assert served.gateway.num_running == 1

    await eventually(lambda: served.gateway.num_cancelled == 1)


async def test_closing_blocking_events_cancels_the_request(served: Served) -> None:
    served.gateway.gate_at = 2

    def take_one(client: Client) -> Events:
        events = client.generate("hello")
        next(events)
        return events

    with Client(served.address) as client:
        events = await asyncio.to_thread(take_one, client)
        events.close()
        assert list(events) == []

        await eventually(lambda: served.gateway.num_cancelled == 1)


async def test_time_that_is_up_ends_the_request(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("baton.client.asynchronous.DEADLINE_SLACK_SECONDS", 0.05)
    served.gateway.gate_at = 1

    with pytest.raises(DeadlineExceeded):
        await served.collect("hello", timeout_s=0.05)

    await eventually(lambda: served.gateway.num_running == 0)


async def test_an_ended_answer_stays_ended(served: Served) -> None:
    events = served.client.generate("hello")
    assert [event async for event in events]

    assert [event async for event in events] == []
    assert served.gateway.num_cancelled == 0


async def test_nobody_at_the_address_is_a_lost_worker() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(WorkerLost):
            await client.list_models()


async def test_text_and_tokens_are_turned_into_each_other(
    served: Served, toy_text: ModelText
) -> None:
    messages = [{"role": "user", "content": "hello"}]
    chat_ids = await served.client.tokenize(messages)

    assert await served.client.tokenize("hello") == tuple(toy_text.encode("hello"))
    assert chat_ids == tuple(toy_text.encode_chat(messages))
    assert "<|im_start|>" not in await served.client.detokenize(chat_ids)
    kept = await served.client.detokenize(chat_ids, keep_special_tokens=True)
    assert kept.startswith("<|im_start|>user\nhello")
    with pytest.raises(InvalidRequest, match="token_ids"):
        await served.client.detokenize([10**6])
    with pytest.raises(InvalidRequest, match="token ids already"):
        await served.client.tokenize([1, 2])


async def test_the_blocking_client_has_the_same_methods(
    served: Served, toy_text: ModelText
) -> None:
    def ask() -> tuple[object, ...]:
        with Client(served.address) as client:
            ids = client.tokenize("hello")
            return ids, client.detokenize(ids), client.list_models()

    ids, text, models = await asyncio.to_thread(ask)

    assert (ids, text) == (tuple(toy_text.encode("hello")), "hello")
    assert models == await served.client.list_models()


async def test_models_are_listed(served: Served) -> None:
    (model,) = await served.client.list_models()

    assert (model.name, model.context_len) == ("toy", 256)
    assert (model.num_decode_workers, model.num_prefill_workers) == (1, 1)


@pytest.mark.parametrize("is_chat", [True, False])
async def test_the_example_streams_an_answer(served: Served, is_chat: bool) -> None:
    arguments = ["hello", "--gateway", served.address, *(["--chat"] if is_chat else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "examples" / "generate.py"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
    )

    out, err = await process.communicate()

    assert process.returncode == 0, err.decode()
    assert out.decode().strip() == ANSWER
    assert "tokens; first after" in err.decode()
    assert "decode decode-1" in err.decode()


async def test_an_option_that_does_not_exist_is_refused_by_name() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(TypeError, match="no option 'max_tokens'; it has cache_salt"):
            client.generate("hello", max_tokens=5)  # type: ignore[call-arg]
