"""tritonclient against five real processes: what it asks for reaches the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import oracle
import pytest
from decode_client import make_prompt, until_free
from triton_child import TritonChild

if find_spec("tritonclient") is None:
    pytest.skip("tritonclient comes with the `dev` extra", allow_module_level=True)

pytestmark = pytest.mark.cluster

Triton = Callable[..., Any]


@pytest.fixture(scope="module")
def triton(cluster) -> Iterator[Triton]:
    """Calls of tritonclient, by the names of its methods."""
    with TritonChild() as child:
        yield partial(child.call, cluster.address())


def ids_input(prompt: list[int]) -> list[Any]:
    return ["input_ids", "INT32", [1, len(prompt)], prompt]


def ask(prompt: list[int], **parameters: Any) -> dict[str, Any]:
    """A request for the ids that the engine draws."""
    told = {"max_tokens": 20, "ignore_eos": True, **parameters}
    return {"model": "", "inputs": [ids_input(prompt)], "outputs": ["output_ids"]} | {
        "parameters": told
    }


def drawn(reply: dict[str, Any]) -> list[int]:
    ids: list[int] = reply["outputs"]["output_ids"]
    return ids


def test_greedy_tokens_are_those_of_transformers_handed_off_and_streamed(triton, model):
    prompts = [make_prompt(length, seed=70) for length in (5, 100, 200)]
    requests = [ask(prompt, temperature=0.0) for prompt in prompts]
    expected = oracle.greedy(model, prompts, 20)

    whole = [drawn(triton("infer", **request)) for request in requests]
    named = [{**request, "id": str(number)} for number, request in enumerate(requests)]
    streamed: dict[str, list[int]] = {}
    for part in triton("stream", requests=named):
        streamed.setdefault(part["id"], []).extend(drawn(part))

    assert whole == expected
    assert [streamed[str(number)] for number in range(3)] == expected


def test_the_seed_decides_what_is_drawn_and_temperature_whether(triton):
    prompt = make_prompt(90, seed=71)
    first = drawn(triton("infer", **ask(prompt, temperature=1.0, seed=5)))

    assert drawn(triton("infer", **ask(prompt, temperature=1.0, seed=5))) == first
    assert drawn(triton("infer", **ask(prompt, temperature=1.0, seed=6))) != first
    assert drawn(triton("infer", **ask(prompt, temperature=0.0, seed=5))) != first


def test_lengths_stop_tokens_and_biases_are_the_engines(triton):
    prompt = make_prompt(40, seed=72)
    greedy = drawn(triton("infer", **ask(prompt, temperature=0.0)))
    stop = greedy[4]

    short = triton("infer", **ask(prompt, temperature=0.0, max_tokens=3))
    stopped = triton("infer", **ask(prompt, temperature=0.0, stop_token_ids=stop))
    bias = f'{{"logit_bias": {{"{stop}": 100}}}}'
    biased = triton("infer", **ask(prompt, temperature=0.0, sampling_parameters=bias))

    assert drawn(short) == greedy[:3]
    assert drawn(stopped) == greedy[: greedy.index(stop) + 1]
    assert drawn(biased) == [stop] * 20


async def test_a_client_that_leaves_its_stream_frees_all_blocks_within_a_second(cluster, triton):
    requests = [ask(make_prompt(300, seed=seed), max_tokens=600) for seed in range(73, 77)]

    events = triton("stream", requests=requests, leave_after=5)
    left_at = time.monotonic()
    for name in ("decode-0", "prefill-0"):
        await until_free(cluster.address(name), 1)

    assert len(events) >= 5
    assert time.monotonic() - left_at < 1.0
