"""tritonclient, unmodified, against the gateway's KServe door: facts, whole answers, parameters."""

from __future__ import annotations

import asyncio

import pytest

from baton.request import FinishReason, TokenLogprobs
from tests.support.triton_child import TritonError
from tests.support.triton_door import TEXT, TritonDoor, spec, text_input


@pytest.fixture
def door(triton_door: TritonDoor) -> TritonDoor:
    return triton_door


async def test_the_server_and_its_model_are_live_ready_and_described(door):
    triton = door.triton

    assert await triton("is_server_live") is True
    assert await triton("is_server_ready") is True
    assert await triton("is_model_ready", model_name="toy") is True
    assert await triton("is_model_ready", model_name="toy", model_version="2") is False
    assert await triton("is_model_ready", model_name="other") is False
    server = await triton("get_server_metadata", as_json=True)
    metadata = await triton("get_model_metadata", model_name="toy", as_json=True)
    config = (await triton("get_model_config", model_name="toy", as_json=True))["config"]
    index = await triton("get_model_repository_index", as_json=True)

    assert server["name"] == "baton"
    assert "parameters" in server["extensions"]
    assert (metadata["name"], metadata["platform"], metadata["versions"]) == ("toy", "baton", ["1"])
    assert {"name": "text_input", "datatype": "BYTES", "shape": ["1"]} in metadata["inputs"]
    assert {"name": "text_output", "datatype": "BYTES", "shape": ["1"]} in metadata["outputs"]
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert {entry["name"] for entry in config["input"]} > {"text_input", "max_tokens", "stream"}
    assert index["models"] == [{"name": "toy", "version": "1", "state": "READY"}]


async def test_a_server_whose_worker_has_gone_is_live_but_not_ready(door):
    door.world.directory.down("decode-0")

    assert await door.triton("is_server_live") is True
    assert await door.triton("is_server_ready") is False
    assert await door.triton("is_model_ready", model_name="toy") is False


@pytest.mark.parametrize("name", ["get_inference_statistics", "get_system_shared_memory_status"])
async def test_calls_that_are_not_served_say_so(door, name):
    with pytest.raises(TritonError) as failure:
        await door.triton(name)

    assert failure.value.status == "StatusCode.UNIMPLEMENTED"


async def test_infer_gives_the_whole_answer_under_the_requests_id(door):
    answer = await door.triton("infer", **spec(id="my-request"))

    assert answer == {
        "id": "my-request",
        "model": "toy",
        "version": "1",
        "outputs": {"text_output": [TEXT], "finish_reason": ["length"]},
        "parameters": {},
    }
    assert door.worker.submissions[0].request_id == "my-request"


async def test_an_id_that_cannot_be_ours_is_returned_beside_ours(door):
    answer = await door.triton("infer", **spec(id="two words"))

    ours = door.worker.submissions[0].request_id
    assert answer["id"] == "two words"
    assert answer["parameters"] == {"baton-request-id": ours}
    assert len(ours) == 32


async def test_a_request_without_an_id_is_given_one(door):
    answer = await door.triton("infer", **spec())

    assert answer["id"] == door.worker.submissions[0].request_id


SAMPLING = {
    "max_tokens": 9,
    "min_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.75,
    "top_k": 7,
    "min_p": 0.125,
    "repetition_penalty": 1.5,
    "presence_penalty": 0.25,
    "frequency_penalty": -0.5,
    "seed": 7,
    "ignore_eos": True,
    "logprobs": 3,
}


def assert_arrived(door: TritonDoor) -> None:
    """Whatever way they took, the worker was told all of `SAMPLING`."""
    told = door.sampling
    for name, value in SAMPLING.items():
        assert getattr(told, "logprobs_count" if name == "logprobs" else name) == value, name


async def test_sampling_parameters_arrive_as_request_parameters(door):
    await door.triton("infer", **spec(parameters={**SAMPLING, "stop": "STOP"}))

    assert_arrived(door)
    assert list(door.sampling.stop_strings) == ["STOP"]


async def test_sampling_parameters_arrive_as_tensors(door):
    kinds = {int: "INT32", float: "FP32", bool: "BOOL"}
    tensors = [[name, kinds[type(value)], [1], [value]] for name, value in SAMPLING.items()]
    tensors += [["stop", "BYTES", [2], ["A", "Ö"]], ["stop_token_ids", "INT64", [1, 2], [5, 6]]]

    await door.triton("infer", **spec(*tensors))

    assert_arrived(door)
    assert list(door.sampling.stop_strings) == ["A", "Ö"]
    assert list(door.sampling.stop_token_ids) == [5, 6]


async def test_sampling_parameters_arrive_as_vllms_json_of_texts(door):
    texts = {name: str(value) for name, value in SAMPLING.items()}
    lists = '"stop": ["A", "B"], "logit_bias": {"4": -1.5}, "n": 1, "top_k": null'
    texts.pop("top_k")
    body = "{" + lists + "".join(f', "{name}": "{value}"' for name, value in texts.items()) + "}"

    parameters = {"top_k": SAMPLING["top_k"]}
    tensor = ["sampling_parameters", "BYTES", [1], [body]]
    await door.triton("infer", **spec(tensor, parameters=parameters))

    assert_arrived(door)
    assert list(door.sampling.stop_strings) == ["A", "B"]
    assert dict(door.sampling.logit_bias) == {4: -1.5}


async def test_max_tokens_and_stop_decide_the_answer(door):
    short = await door.triton("infer", **spec(parameters={"max_tokens": 1}))
    cut = await door.triton("infer", **spec(parameters={"stop": " quick"}))

    first = door.world.text.decode(door.world.ids(TEXT)[:1])
    assert short["outputs"] == {"text_output": [first], "finish_reason": ["length"]}
    assert cut["outputs"] == {"text_output": ["the"], "finish_reason": ["stop"]}


async def test_priority_and_timeout_are_ours_and_sequences_are_nothing_special(door):
    request = spec(priority=1, timeout=2_500_000, sequence_id=5)
    await door.triton("infer", **request, client_timeout=60)
    message = door.worker.submissions[0].message

    assert message.priority == 100
    assert 2_000 < message.timeout_ms <= 2_500


async def test_token_ids_are_taken_as_they_are_in_each_type(door):
    for kind in ("INT32", "INT64", "UINT32", "UINT64"):
        await door.triton("infer", inputs=[["input_ids", kind, [1, 3], [9, 8, 7]]])

    assert [s.token_ids for s in door.worker.submissions] == [[9, 8, 7]] * 4


async def test_answers_hold_the_tensors_asked_for(door):
    ids = door.world.ids(TEXT)
    names = ["output_ids", "num_input_tokens", "num_output_tokens", "text_output"]
    by_name = await door.triton("infer", **spec(outputs=names))
    flags = {"return_token_ids": True, "return_num_input_tokens": True}
    by_flag = await door.triton("infer", **spec(parameters=flags))

    num_input = len(door.world.ids("Hello"))
    assert by_name["outputs"] == {
        "text_output": [TEXT],
        "output_ids": ids,
        "num_input_tokens": [num_input],
        "num_output_tokens": [len(ids)],
    }
    assert by_flag["outputs"] == {
        "text_output": [TEXT],
        "finish_reason": ["length"],
        "output_ids": ids,
        "num_input_tokens": [num_input],
    }


async def test_log_probabilities_come_as_tensors(door):
    door.worker.script = None
    fox, dog = door.world.ids("fox")[0], door.world.ids("dog")[0]
    asked = asyncio.create_task(door.triton("infer", **spec(parameters={"logprobs": 2})))
    submission = await door.worker.submitted()
    entries = [TokenLogprobs(fox, -0.5, ((dog, -0.25), (fox, -0.5))), TokenLogprobs(fox, -1.0)]
    await submission.send([fox, fox], logprobs=entries, end=FinishReason.LENGTH)
    outputs = (await asked)["outputs"]

    assert outputs["logprobs"] == [-0.5, -1.0]
    assert outputs["top_logprob_ids"] == [[dog, fox], [-1, -1]]
    assert outputs["top_logprobs"] == [[-0.25, -0.5], [float("-inf"), float("-inf")]]


async def test_the_calls_deadline_shortens_the_requests(door):
    door.worker.script = None
    with pytest.raises(TritonError) as failure:
        await door.triton("infer", **spec(client_timeout=0.4, timeout=60_000_000))
    submission = await door.worker.submitted()
    await door.worker.cancelled(submission)

    assert failure.value.status == "StatusCode.DEADLINE_EXCEEDED"
    assert submission.message.timeout_ms <= 400


async def test_the_clients_trace_goes_on_to_the_worker(door):
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    await door.triton("infer", **spec(headers=headers))

    assert door.worker.submissions[0].message.traceparent.split("-")[1] == trace


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (spec(model="other"), "NOT_FOUND", "model 'other' is not served"),
        (spec(version="7"), "NOT_FOUND", "model_version is '7'"),
        ({"inputs": [["max_tokens", "INT32", [1], [4]]]}, "INVALID_ARGUMENT", "text_input is miss"),
        ({"inputs": [["text_input", "INT32", [1], [4]]]}, "INVALID_ARGUMENT", "text_input is INT3"),
        ({"inputs": [["text_input", "BYTES", [2], ["a", "b"]]]}, "INVALID_ARGUMENT", "2 elements"),
        ({"inputs": [text_input("")]}, "INVALID_ARGUMENT", "text_input is empty"),
        ({"inputs": [text_input("Hello " * 500)]}, "INVALID_ARGUMENT", "context of 64 tokens"),
        ({"inputs": [["input_ids", "INT32", [1], [-1]]]}, "INVALID_ARGUMENT", "input_ids holds -1"),
        (spec(["input_ids", "INT32", [1], [1]]), "INVALID_ARGUMENT", "both given"),
        (spec(["top_k", "FP32", [1], [1.5]]), "INVALID_ARGUMENT", "top_k is 1.5"),
        (spec(["top_k", "INT32", [2], [1, 2]]), "INVALID_ARGUMENT", "top_k has 2 elements"),
        (
            spec(["top_k", "INT32", [1], [1]], parameters={"top_k": 2}),
            "INVALID_ARGUMENT",
            "top_k is given twice",
        ),
        (spec(parameters={"max_tokens": -1}), "INVALID_ARGUMENT", "max_tokens is -1"),
        (spec(parameters={"temperature": 3.0}), "INVALID_ARGUMENT", "temperature is 3.0"),
        (spec(parameters={"logprobs": 21}), "INVALID_ARGUMENT", "logprobs is 21"),
        (spec(parameters={"stream": True}), "INVALID_ARGUMENT", "stream is true"),
        (spec(parameters={"n": 2}), "INVALID_ARGUMENT", "n is 2; 1,"),
        (spec(parameters={"exclude_input_in_output": False}), "INVALID_ARGUMENT", "never holds"),
        (spec(parameters={"beam_width": 4}), "INVALID_ARGUMENT", "beam_width is not known"),
        (spec(parameters={"sampling_parameters": "{"}), "INVALID_ARGUMENT", "is not JSON"),
        (spec(priority=202), "INVALID_ARGUMENT", "priority is 202"),
        (spec(timeout=-1), "INVALID_ARGUMENT", "timeout is -1"),
        (spec(outputs=["logits"]), "INVALID_ARGUMENT", "output 'logits' is not known"),
    ],
)
async def test_bad_input_names_field_value_and_limit_and_reaches_no_worker(
    door, request_, status, words
):
    with pytest.raises(TritonError) as failure:
        await door.triton("infer", **request_)

    assert failure.value.status == f"StatusCode.{status}"
    assert words in str(failure.value)
    assert door.worker.submissions == []
