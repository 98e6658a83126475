"""A guide behind a thought, as the library that enforces it understands it."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton import guides
from baton.guides import GuideCompiler, answer_rules
from baton.request import Guide, GuideKind
from baton.text import ModelText, load_text
from baton.text.thought_grammar import behind_thought
from tests.support.tokenizers_made import byte_level_tokenizer, write_folder
from tests.support.tool_model import write_tool_folder

SCHEMA = guides.of_schema(
    {
        "$defs": {"N": {"type": "integer"}},
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/N"}},
        "required": ["x"],
        "additionalProperties": False,
    }
)
TEXT = 'start: "x" other\nother: /y+}/\n'
THOUGHT = '<think>\nhm {"x": 1}\n</think>\n\n'


class Thinker:
    """A model's vocabulary, and what may be said with it."""

    def __init__(self, folder: Path) -> None:
        self.text: ModelText = load_text(folder)
        self._compiler = GuideCompiler(folder, self.text.vocab_size, self.text.eos_token_ids)

    def may_say(self, guide: Guide, reply: str, is_thinking: bool = False) -> bool:
        """Whether a reply may be given, and end there."""
        grammar = behind_thought(answer_rules(guide), is_thinking, self._is_token)
        compiled = self._compiler.compile(Guide(GuideKind.LARK, grammar))
        matcher = compiled.matcher
        assert matcher is not None, compiled.fault
        for token_id in self.text.encode(reply, add_special_tokens=False):
            if not matcher.allows(token_id):
                return False
            matcher.advance(token_id)
        return matcher.is_complete or matcher.allows(self.text.eos_token_ids[0])

    def _is_token(self, tag: str) -> bool:
        return len(self.text.encode(tag, add_special_tokens=False)) == 1


@pytest.fixture(scope="module", params=["tokens", "text"])
def thinker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Thinker:
    """With tags as tokens of their own; with the closing one spelled out."""
    folder = tmp_path_factory.mktemp("thinker")
    if request.param == "tokens":
        return Thinker(write_tool_folder(folder))
    return Thinker(write_folder(folder, byte_level_tokenizer()))


@pytest.mark.parametrize(
    ("guide", "answer"),
    [
        (SCHEMA, '{"x": 3}'),
        (SCHEMA, '{ "x" :\n3 }'),
        (guides.of_schema(True), "[3, null]"),
        (guides.ANY_OBJECT, '{"a": {"b": "</b>"}}'),
        (guides.of_regex("[a-f]{3}/\n|x"), "abc/\n"),
        (guides.of_regex("[a-f]{3}/\n|x"), "x"),
        (guides.of_regex(r"a\/b\\"), "a/b\\"),
        (guides.of_regex(" [ab]+"), " ab"),
        (guides.of_choices(["yes", "nö/ 😀"]), "nö/ 😀"),
        (guides.of_grammar(TEXT), "xyy}"),
    ],
)
def test_an_answer_may_follow_a_thought_or_come_at_once(
    thinker: Thinker, guide: Guide, answer: str
) -> None:
    behind_tag = THOUGHT.removeprefix("<think>")

    assert thinker.may_say(guide, THOUGHT + answer)
    assert thinker.may_say(guide, THOUGHT.rstrip() + answer)
    assert thinker.may_say(guide, answer)
    assert thinker.may_say(guide, behind_tag + answer, is_thinking=True)


@pytest.mark.parametrize(
    "reply",
    [
        "words",
        THOUGHT,
        THOUGHT + "words",
        THOUGHT + '{"x": "3"}',
        THOUGHT + '{"x": 3} and more',
        THOUGHT + '{"x":' + " " * 20 + "3}",
        "<think>\n" + '{"x": 3}',
        "  " + '{"x": 3}',
        "words" + THOUGHT + '{"x": 3}',
    ],
)
def test_behind_a_thought_nothing_but_the_answer_may_come(thinker: Thinker, reply: str) -> None:
    assert not thinker.may_say(SCHEMA, reply)


def test_a_thought_that_the_prompt_opened_must_end(thinker: Thinker) -> None:
    assert not thinker.may_say(SCHEMA, '{"x": 3}', is_thinking=True)
