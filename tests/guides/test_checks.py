"""Which guides are refused, with what reason, and what is kept of those that came."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import make_checkpoint

from baton import guides
from baton.errors import InvalidRequest
from baton.guides import GuideChecks, GuideCompiler, GuideMatchers
from baton.guides.checks import NUM_KEPT as NUM_VERDICTS
from baton.guides.matchers import NUM_KEPT as NUM_MATCHERS
from baton.request import Guide


@pytest.fixture(scope="module")
def compiler(tmp_path_factory) -> GuideCompiler:
    folder: Path = make_checkpoint(tmp_path_factory.mktemp("models") / "tiny", "qwen3")
    return GuideCompiler(folder, 384, [1])


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (guides.of_regex(""), "is empty"),
        (guides.of_regex("(abc"), "unclosed group"),
        (guides.of_regex("a(?=b)"), "look-around"),
        (guides.of_regex(r"[^\s\S]"), "cannot be met by any text"),
        (guides.of_regex("a" * 262_145), "at most 262,144 are allowed"),
        (guides.of_regex("a" * 262_144), "is too complex"),
        (guides.of_regex("(" * 50_000 + ")" * 50_000), "cannot be compiled"),
        (guides.of_regex("\ud800"), "cannot be compiled"),
        (guides.of_schema("{"), "cannot be compiled"),
        (guides.of_schema('"text"'), "schema must be an object or boolean"),
        (guides.of_schema(False), "Unsatisfiable"),
        (guides.of_schema({"type": "nothing"}), "nothing"),
        (guides.of_schema({"$ref": "#"}), "cannot be met by any text"),
        (guides.of_schema({"$ref": "http://example.com/x"}), "is not present"),
        (guides.of_schema({"not": {"type": "string"}}), "not"),
        (guides.of_schema({"type": "integer", "minimum": 2, "maximum": 1}), "minimum"),
        (guides.of_grammar("start: other"), "unknown name"),
        (guides.of_grammar('start: ("a"'), "cannot be compiled"),
        (guides.of_grammar("start: start"), "cannot be met by any text"),
    ],
    ids=range(19),
)
async def test_a_guide_that_cannot_be_used_is_refused_with_a_reason(
    compiler: GuideCompiler, guide: Guide, reason: str
) -> None:
    checks = GuideChecks(compiler)

    fault = await checks.fault(guide)

    assert reason in fault
    assert len(fault) < 500
    checks.close()


async def test_a_worker_refuses_tokens_that_do_not_follow_the_guide(
    compiler: GuideCompiler,
) -> None:
    matchers = GuideMatchers(compiler)

    with pytest.raises(InvalidRequest, match="2 tokens behind the prompt"):
        await matchers.matcher(guides.of_regex("[0-9]+"), [70, 71])

    matchers.close()


async def test_matchers_of_one_guide_go_their_own_ways(compiler: GuideCompiler) -> None:
    matchers = GuideMatchers(compiler)
    guide = guides.of_regex("[A-z]{2}")
    [one, other] = [await matchers.matcher(guide) for _ in range(2)]

    one.advance(70)
    one.advance(71)

    assert (one.is_complete, other.is_complete) == (True, False)
    matchers.close()


async def test_a_thousand_guides_leave_no_more_than_the_last_ones(compiler: GuideCompiler) -> None:
    checks, matchers = GuideChecks(compiler), GuideMatchers(compiler)

    for index in range(1, 1101):
        guide = guides.of_schema({"const": f"text {index}"})
        assert await checks.fault(guide) == ""
        await matchers.matcher(guide)

    assert len(checks) == NUM_VERDICTS
    assert len(matchers) == NUM_MATCHERS
    checks.close()
    matchers.close()
