"""The one function that turns raw fields into a checked command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baton.errors import InvalidRequest, NoWorker, UnknownModel
from baton.request import Guide, GuideKind
from baton.text import ModelText, load_text
from services.gateway.fields import GenerateFields
from services.gateway.validation import check_token_ids, resolve
from tests.support.fake_gateway import FakeGateway
from tests.support.tokenizers_made import byte_level_tokenizer, metaspace_tokenizer, write_folder

NAN = float("nan")
HELLO = GenerateFields(text="hello")


@pytest.fixture
def gateway(toy_text: ModelText) -> FakeGateway:
    return FakeGateway(toy_text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", NAN),
        ("temperature", float("inf")),
        ("temperature", -1e-9),
        ("top_p", 0.0),
        ("top_p", NAN),
        ("top_k", 2**31),
        ("min_p", NAN),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 2.01),
        ("presence_penalty", NAN),
        ("frequency_penalty", 2.01),
        ("max_tokens", -1),
        ("max_tokens", 257),
        ("min_tokens", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("logprobs_count", 21),
        ("logit_bias", {3: NAN}),
        ("logit_bias", {-1: 1.0}),
        ("stop_strings", ["a", ""]),
        ("stop_token_ids", [-1]),
        ("sample_count", 129),
        ("sample_count", -1),
        ("priority", -101),
        ("cache_salt", "x" * 257),
        ("request_id", "x" * 129),
        ("request_id", "line\nbreak"),
        ("timeout_s", -1.0),
        ("timeout_s", NAN),
    ],
)
async def test_what_is_out_of_range_is_refused_by_name(
    gateway: FakeGateway, field: str, value: object
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await resolve(gateway, replace(HELLO, **{field: value}))

    assert raised.value.field == field
    assert raised.value.message.startswith(field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("temperature", 2.0),
        ("top_p", 1.0),
        ("top_k", 0),
        ("min_p", 1.0),
        ("repetition_penalty", 2.0),
        ("presence_penalty", -2.0),
        ("max_tokens", 1),
        ("seed", 2**64 - 1),
        ("logprobs_count", 20),
        ("stop_strings", ("a",) * 16),
    ],
)
async def test_the_limits_themselves_are_allowed(
    gateway: FakeGateway, field: str, value: Any
) -> None:
    command = await resolve(gateway, replace(HELLO, **{field: value}))

    expected = tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value
    assert getattr(command.sampling, field) == expected


async def test_a_prompt_that_fills_the_context_is_refused_and_one_token_less_is_not(
    gateway: FakeGateway,
) -> None:
    with pytest.raises(InvalidRequest, match=r"token_ids has 256 tokens; .*context of 256 tokens"):
        await resolve(gateway, GenerateFields(token_ids=[5] * 256))

    command = await resolve(gateway, GenerateFields(token_ids=[5] * 255))

    assert command.sampling.max_tokens == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (GenerateFields(), "prompt"),
        (GenerateFields(text="a", token_ids=[1]), "prompt"),
        (GenerateFields(text=""), "text"),
        (GenerateFields(messages=[]), "messages"),
        (GenerateFields(token_ids=[]), "token_ids"),
        (GenerateFields(token_ids=[1, -1]), "token_ids"),
        (GenerateFields(token_ids=[10**9]), "token_ids"),
        (GenerateFields(messages=[{"role": "user"}]), "messages"),
    ],
)
async def test_a_prompt_comes_in_exactly_one_form_and_says_something(
    gateway: FakeGateway, fields: GenerateFields, field: str
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await resolve(gateway, fields)

    assert raised.value.field == field


async def test_a_text_and_a_chat_are_tokenised_each_in_their_way(tmp_path: Path) -> None:
    text = load_text(write_folder(tmp_path, metaspace_tokenizer()))
    gateway = FakeGateway(text)

    plain = await resolve(gateway, HELLO)
    chat = await resolve(gateway, GenerateFields(messages=[{"role": "user", "content": "hello"}]))

    assert plain.token_ids == tuple(text.encode("hello"))
    assert chat.token_ids == tuple(text.encode_chat([{"role": "user", "content": "hello"}]))
    assert chat.token_ids[0] != 1
    assert plain.tokenize_us > 0


async def test_what_is_open_comes_from_the_model_then_from_the_house(tmp_path: Path) -> None:
    generation = {"do_sample": True, "temperature": 0.3, "top_k": 20, "repetition_penalty": 1.1}
    text = load_text(write_folder(tmp_path, byte_level_tokenizer(), generation_config=generation))

    command = await resolve(FakeGateway(text), replace(HELLO, top_k=0))

    sampling = command.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.3, 0, 1.0)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.0, 1.1)
    assert command.sample_count == 1
    assert command.timeout_s == 600.0
    assert sampling.max_tokens == 256 - len(command.token_ids)


async def test_seeds_and_ids_are_drawn_anew_when_open(gateway: FakeGateway) -> None:
    commands = [await resolve(gateway, HELLO) for _ in range(8)]

    assert len({command.sampling.seed for command in commands}) == 8
    assert all(command.sampling.seed < 2**53 for command in commands)
    assert len({command.request_id for command in commands}) == 8


async def test_a_timeout_is_cut_to_the_gateways_limit(gateway: FakeGateway) -> None:
    short = await resolve(gateway, replace(HELLO, timeout_s=2.5), max_timeout_s=10)
    long = await resolve(gateway, replace(HELLO, timeout_s=50), max_timeout_s=10)

    assert (short.timeout_s, long.timeout_s) == (2.5, 10)


async def test_a_door_may_call_fields_by_its_own_names(gateway: FakeGateway) -> None:
    with pytest.raises(InvalidRequest, match=r"^stop has 17 strings; at most 16 are allowed\.$"):
        await resolve(
            gateway, replace(HELLO, stop_strings=["a"] * 17), names={"stop_strings": "stop"}
        )


async def test_models_are_found_by_name_or_left_open(gateway: FakeGateway) -> None:
    assert (await resolve(gateway, HELLO)).model == "toy"
    with pytest.raises(UnknownModel, match="'other'"):
        await resolve(gateway, replace(HELLO, model="other"))
    gateway.names.clear()
    with pytest.raises(NoWorker):
        await resolve(gateway, HELLO)


def test_token_ids_to_detokenise_are_checked(toy_text: ModelText) -> None:
    check_token_ids(toy_text, [0, toy_text.vocab_size - 1])

    with pytest.raises(InvalidRequest, match=f"token_ids holds {toy_text.vocab_size}"):
        check_token_ids(toy_text, [toy_text.vocab_size])


async def test_a_guide_that_cannot_be_used_is_refused_by_the_doors_own_name(
    gateway: FakeGateway,
) -> None:
    guide = Guide(GuideKind.REGEX, "bad")

    with pytest.raises(InvalidRequest, match=r"^guided_regex cannot be used") as refused:
        await resolve(gateway, replace(HELLO, guide=guide), names={"guide": "guided_regex"})

    assert refused.value.field == "guided_regex"
    assert gateway.commands == []
