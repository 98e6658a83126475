"""What an answer must look like, as OpenAI's and vLLM's clients ask for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from baton import guides
from baton.errors import InvalidRequest
from services.gateway.openai.guided import guide_of, response_guide_of

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORM = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA, "strict": True}}


@pytest.mark.parametrize(
    ("extra", "field", "guide"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format", guides.ANY_OBJECT),
        (
            {"response_format": FORM},
            "response_format.json_schema.schema",
            guides.of_schema(SCHEMA),
        ),
        ({"guided_json": SCHEMA}, "guided_json", guides.of_schema(SCHEMA)),
        ({"guided_json": json.dumps(SCHEMA)}, "guided_json", guides.of_schema(SCHEMA)),
        ({"guided_regex": "a+"}, "guided_regex", guides.of_regex("a+")),
        ({"guided_choice": ["a", "b"]}, "guided_choice", guides.of_choices(["a", "b"])),
        ({"guided_grammar": "start: A"}, "guided_grammar", guides.of_grammar("start: A")),
        (
            {"structured_outputs": {"regex": "a", "json": None}},
            "structured_outputs.regex",
            guides.of_regex("a"),
        ),
        (
            {"structured_outputs": {"json_object": True}},
            "structured_outputs.json_object",
            guides.ANY_OBJECT,
        ),
    ],
)
def test_each_form_becomes_a_guide_that_keeps_its_name(
    extra: dict[str, Any], field: str, guide: object
) -> None:
    named = guide_of(extra)

    assert named is not None
    assert (named.field, named.guide) == (field, guide)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"response_format": None},
        {"response_format": {"type": "text"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"json_object": False}},
    ],
)
def test_what_asks_for_nothing_is_no_guide(extra: dict[str, Any]) -> None:
    assert guide_of(extra) is None


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"guided_json": 3}, "guided_json"),
        ({"guided_regex": ["a"]}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", 1]}, "guided_choice"),
        ({"guided_grammar": {}}, "guided_grammar"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(extra: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        guide_of(extra)

    assert refused.value.field == field


@pytest.mark.parametrize(
    ("text", "field", "guide"),
    [
        ({"format": {"type": "json_object"}}, "text.format", guides.ANY_OBJECT),
        (
            {"format": {"type": "json_schema", "name": "it", "schema": SCHEMA}},
            "text.format.schema",
            guides.of_schema(SCHEMA),
        ),
    ],
)
def test_responses_say_it_in_their_text(text: dict[str, Any], field: str, guide: object) -> None:
    named = response_guide_of({"text": text})

    assert named is not None
    assert (named.field, named.guide) == (field, guide)


@pytest.mark.parametrize("text", [{}, {"format": None}, {"format": {"type": "text"}}])
def test_responses_of_plain_text_have_no_guide(text: dict[str, Any]) -> None:
    assert response_guide_of({"text": {**text, "verbosity": "medium"}}) is None


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"text": "json"}, "text"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": 3}}, "text.format"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "json_schema": {}}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object"}}, "guided_regex": "a"}, "guided_regex"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused_by_name(extra: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        response_guide_of(extra)

    assert refused.value.field == field
