"""Whatever is sent to the OpenAI door of a real process, the answer is one that it describes.

`BATON_FUZZ_SCHEMA_EXAMPLES` sets how many requests each operation gets (10), and with more than
these they differ from run to run.
"""

from __future__ import annotations

import json
import os
import urllib.request

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS, load_all_checks

from services.gateway.openai.openapi import openapi
from tests.support.cluster import Cluster
from tests.support.raw_http import Reply, assert_openai_error

pytestmark = pytest.mark.cluster

USUAL_EXAMPLES = 10
EXAMPLES = int(os.environ.get("BATON_FUZZ_SCHEMA_EXAMPLES", USUAL_EXAMPLES))

RIGHT = {
    "/v1/completions": {"prompt": "hello", "max_tokens": 4},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4},
    "/v1/responses": {"input": "hello", "max_output_tokens": 4},
}

load_all_checks()
TRUTHS = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_schema_conformance",
    ]
)
schema = schemathesis.openapi.from_dict(openapi())
schema.config.generation.update(modes=list(schemathesis.GenerationMode))


def test_the_description_is_served(url: str) -> None:
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=5) as answer:
        assert json.load(answer) == openapi()


fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= USUAL_EXAMPLES,
    database=None,
    suppress_health_check=list(HealthCheck),
)
unhurried = pytest.mark.timeout(0 if EXAMPLES > USUAL_EXAMPLES else 120)


@unhurried
@schema.parametrize()
@fuzzed
def test_every_answer_is_one_that_the_description_lists(
    case: schemathesis.Case, victim: Cluster
) -> None:
    check_answer(case, victim)


@unhurried
@schema.include(path=list(RIGHT)).parametrize()
@fuzzed
def test_every_stream_is_one_that_the_description_lists(
    case: schemathesis.Case, victim: Cluster
) -> None:
    # What is needed is right, so that many get as far as a stream; all else is as it comes.
    body = case.body if isinstance(case.body, dict) else {}
    case.body = {**body, **RIGHT[case.path], "stream": True}

    check_answer(case, victim)


def check_answer(case: schemathesis.Case, victim: Cluster) -> None:
    response = case.call_and_validate(base_url=victim.http_url(), checks=TRUTHS, timeout=20)

    assert all(victim.is_running(name) for name in victim.names)
    if response.status_code >= 400 and case.path != "/health":
        headers = {name: values[0] for name, values in response.headers.items()}
        assert_openai_error(Reply(response.status_code, headers, response.content))


def test_the_door_answers_as_before(url: str) -> None:
    """Runs behind the fuzzing; what it asks is in the fixture."""
    assert url
