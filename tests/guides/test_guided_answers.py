"""Whatever a model would like to say, an answer that ends by itself matches its guide."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from guided import PROMPT, GuidedModel, run
from hypothesis import given, settings
from hypothesis import strategies as st

from baton import guides
from baton.engine.types import NewToken
from baton.errors import InvalidRequest
from baton.request import FinishReason, SamplingParams

DIGITS = guides.of_regex("[0-9]{3,6}")
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "ü", "😀"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}

# All of bounded length, so that most answers come to their end.
_LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just({"type": "string", "maxLength": 5}),
    st.just({"type": "string", "pattern": "^[a-zé]{2,4}$"}),
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        st.integers(-1000, 1000),
        st.integers(0, 500),
    ),
    st.just({"type": "number", "minimum": -2, "maximum": 2, "multipleOf": 0.5}),
    st.lists(
        st.one_of(st.text(max_size=6), st.integers(-99, 99), st.booleans(), st.none()),
        min_size=1,
        max_size=4,
        unique_by=repr,
    ).map(lambda values: {"enum": values}),
)
_NAMES = st.text('abcxyzäß😀"\\ ', min_size=1, max_size=4)


def _objects(parts):
    properties = st.dictionaries(_NAMES, parts, min_size=1, max_size=3)
    return properties.flatmap(
        lambda found: st.sets(st.sampled_from(sorted(found))).map(
            lambda required: {
                "type": "object",
                "properties": found,
                "required": sorted(required),
                "additionalProperties": False,
            }
        )
    )


def _arrays(parts):
    return st.builds(
        lambda items, low, more: {
            "type": "array",
            "items": items,
            "minItems": low,
            "maxItems": low + more,
        },
        parts,
        st.integers(0, 2),
        st.integers(0, 2),
    )


_SCHEMAS = st.recursive(
    _LEAVES,
    lambda parts: st.one_of(
        _objects(parts),
        _arrays(parts),
        st.lists(parts, min_size=1, max_size=2).map(lambda found: {"anyOf": found}),
    ),
    max_leaves=5,
)
_SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1.0, 2.0]),
    seed=st.integers(0, 2**64 - 1),
    min_tokens=st.sampled_from([0, 0, 7]),
    ignore_eos=st.booleans(),
    top_k=st.sampled_from([0, 2]),
    top_p=st.sampled_from([1.0, 0.7]),
    logit_bias=st.sampled_from([{}, {1: 100.0}, {1: -100.0, 40: 100.0}]),
    max_tokens=st.just(64),
)


@settings(max_examples=25)
@given(schema=_SCHEMAS, sampling=_SAMPLINGS)
def test_an_answer_that_stops_meets_its_schema(model: GuidedModel, schema, sampling) -> None:
    answer = model.ask(guides.of_schema(schema), sampling)

    model.assert_meets_schema(answer, schema)


# No `\d`: Python's idea of a digit is older than the newest Unicode, whose digits guides allow.
_PIECES = st.sampled_from(["[a-f]", "é", "😀", "(?:yes|no)", "[0-9]", "x", "[^\\n]", "(?:ab|a|b)c"])
_REPEATS = st.sampled_from(["", "?", "{2}", "{1,3}"])
_REGEXES = st.lists(st.tuples(_PIECES, _REPEATS), min_size=1, max_size=5).map(
    lambda pairs: "".join(piece + repeat for piece, repeat in pairs)
)


@settings(max_examples=25)
@given(pattern=_REGEXES, sampling=_SAMPLINGS)
def test_an_answer_that_stops_is_matched_by_its_expression(
    model: GuidedModel, pattern, sampling
) -> None:
    answer = model.ask(guides.of_regex(pattern), sampling)

    assert answer.end.reason is FinishReason.STOP, answer.end
    assert re.fullmatch(pattern, model.said(answer)), (pattern, model.said(answer))


@settings(max_examples=25)
@given(
    choices=st.lists(st.text(max_size=8), min_size=1, max_size=5, unique=True),
    sampling=_SAMPLINGS,
)
def test_an_answer_is_one_of_its_choices(model: GuidedModel, choices, sampling) -> None:
    answer = model.ask(guides.of_choices(choices), sampling)

    assert answer.end.reason is FinishReason.STOP, answer.end
    assert model.said(answer) in choices


def test_most_answers_under_a_bounded_schema_come_to_an_end(model: GuidedModel) -> None:
    sampling = SamplingParams(temperature=1.0, max_tokens=400)
    answers = [
        model.ask(guides.of_schema(PERSON), replace(sampling, seed=seed)) for seed in range(4)
    ]

    for answer in answers:
        model.assert_meets_schema(answer, PERSON)
    assert sum(answer.end.reason is FinishReason.STOP for answer in answers) >= 3


@settings(max_examples=25)
@given(cut=st.integers(0, 12), sampling=_SAMPLINGS)
def test_an_answer_goes_on_elsewhere_as_if_it_had_stayed(
    model: GuidedModel, cut: int, sampling
) -> None:
    guide = guides.of_schema(PERSON)
    whole = model.ask(guide, sampling)
    before = tuple(whole.token_ids[:cut])

    rest = model.ask(guide, sampling, before)

    assert before + tuple(rest.token_ids) == tuple(whole.token_ids)
    assert rest.end.reason is whole.end.reason


def test_an_answer_that_was_complete_already_ends_without_a_token(model: GuidedModel) -> None:
    sampling = SamplingParams(max_tokens=50, min_tokens=20, ignore_eos=True)
    output = tuple(model.text.encode("yes", add_special_tokens=False))

    answer = model.ask(guides.of_choices(["yes"]), sampling, output)

    assert (answer.token_ids, answer.end.reason) == ([], FinishReason.STOP)


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_a_preempted_answer_is_the_same(model: GuidedModel, looks_ahead: bool) -> None:
    guide, sampling = guides.of_regex("[a-z ]{150}"), SamplingParams(max_tokens=200)
    hows = [replace(sampling, seed=seed) for seed in range(3)]
    alone = [model.ask(guide, how).token_ids for how in hows]
    engine = model.engine(num_blocks=12, looks_ahead=looks_ahead)
    for index, how in enumerate(hows):
        engine.add(model.spec(guide, how, sequence_id=f"s{index}"))

    answers = run(engine)

    assert sum(answer.end.stats.num_preemptions for answer in answers.values()) > 0
    assert [answers[f"s{index}"].token_ids for index in range(3)] == alone


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_guided_and_free_sequences_share_a_batch_and_draw_what_they_draw_alone(
    model: GuidedModel, looks_ahead: bool
) -> None:
    sampling = SamplingParams(max_tokens=30, seed=11, logprobs_count=2)
    free = replace(model.spec(DIGITS, sampling, sequence_id="free"), matcher=None)
    specs = [
        free,
        model.spec(DIGITS, sampling, sequence_id="digits"),
        model.spec(guides.of_schema(PERSON), sampling, sequence_id="person"),
    ]
    alone = {}
    for spec in specs:
        engine = model.engine()
        fresh = spec if spec is free else replace(spec, matcher=spec.matcher.copy())
        engine.add(fresh)
        alone |= run(engine)
    engine = model.engine(looks_ahead=looks_ahead)
    for spec in specs:
        engine.add(spec)

    together = run(engine)

    assert {name: answer.token_ids for name, answer in together.items()} == {
        name: answer.token_ids for name, answer in alone.items()
    }


@settings(max_examples=25)
@given(sampling=_SAMPLINGS)
def test_a_handed_over_first_token_leads_to_the_local_answer(model: GuidedModel, sampling) -> None:
    guide = guides.of_schema(PERSON)
    local = model.ask(guide, sampling)
    prefill = model.engine()
    prefill.add(model.spec(guide, sampling, prefill_only=True))
    first = run(prefill)["s"].token_ids[0]
    decode = model.engine()
    decode.add(model.spec(guide, sampling, receive=True))
    [reserved] = decode.step().reserved
    source = prefill.arena.tensor
    # What the prefill engine computed lies in its first block.
    decode.arena.tensor[reserved.block_ids[0]] = source[0]

    decode.resume("s", len(PROMPT), NewToken("s", first))

    assert run(decode)["s"].token_ids == local.token_ids


def test_a_first_token_that_the_guide_does_not_allow_is_refused_and_changes_nothing(
    model: GuidedModel,
) -> None:
    engine = model.engine()
    engine.add(model.spec(DIGITS, SamplingParams(max_tokens=9, seed=1), receive=True))
    engine.step()
    [letter] = model.text.encode("x", add_special_tokens=False)

    with pytest.raises(InvalidRequest, match="none that the guide"):
        engine.resume("s", len(PROMPT), NewToken("s", letter))

    engine.resume("s", 0)
    assert re.fullmatch("[0-9]{3,6}", model.said(run(engine)["s"]))


def test_a_guide_that_gets_out_of_hand_ends_its_sequence_alone(model: GuidedModel) -> None:
    # Right recursion: the parser's rows grow with every character until a limit is met.
    runaway = guides.of_grammar('start: "a" start | "b" start')
    sampling = SamplingParams(max_tokens=900, temperature=0.0)
    engine = model.engine()
    engine.add(model.spec(runaway, sampling, sequence_id="runaway"))
    engine.add(model.spec(DIGITS, sampling, sequence_id="digits"))

    answers = run(engine)

    end = answers["runaway"].end
    assert answers["digits"].end.reason is FinishReason.STOP
    assert end.reason in (FinishReason.ERROR, FinishReason.LENGTH)
    if end.reason is FinishReason.ERROR:
        assert end.field == "guide"
        assert "cannot be followed any further" in end.error


@pytest.mark.parametrize("how", [{"min_tokens": 3}, {"ignore_eos": True}])
def test_wishes_hold_as_far_as_the_guide_leaves_a_choice(model: GuidedModel, how) -> None:
    sampling = SamplingParams(max_tokens=40, temperature=0.0, logit_bias={1: 100.0}, **how)

    answer = model.ask(guides.of_regex("[0-9]{1,5}"), sampling)

    assert answer.end.reason is FinishReason.STOP
    assert len(model.said(answer)) == (5 if "ignore_eos" in how else 3)


def test_a_bias_steers_among_what_is_allowed_only(model: GuidedModel) -> None:
    [three] = model.text.encode("3", add_special_tokens=False)
    [letter] = model.text.encode("x", add_special_tokens=False)
    sampling = SamplingParams(max_tokens=9, logit_bias={three: 100.0, letter: 100.0})

    assert model.said(model.ask(guides.of_regex("[0-9]{6}"), sampling)) == "333333"


def test_a_stop_token_and_a_limit_still_cut(model: GuidedModel) -> None:
    [three] = model.text.encode("3", add_special_tokens=False)
    bias = {three: 100.0}
    stop = SamplingParams(max_tokens=9, logit_bias=bias, stop_token_ids=(three,))
    limit = SamplingParams(max_tokens=2, logit_bias=bias)

    stopped, cut = (model.ask(guides.of_regex("[0-9]{6}"), how) for how in (stop, limit))

    assert (stopped.token_ids, stopped.end.reason) == ([three], FinishReason.STOP)
    assert (cut.token_ids, cut.end.reason) == ([three] * 2, FinishReason.LENGTH)
