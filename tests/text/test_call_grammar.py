"""The grammar of required calls, as the library that enforces it understands it."""

from __future__ import annotations

from typing import Any

import llguidance.hf
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from baton.text.call_grammar import CallRules, call_grammar
from baton.text.dialect import ToolFormat
from tests.support.tokenizers_made import byte_level_tokenizer

NUMBER = {"$defs": {"N": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/N"}}}
TOOLS: list[tuple[str, Any]] = [("one", {**NUMBER, "required": ["x"]}), ("two", None)]
ONE = '{"name": "one", "arguments": {"x": 3}}'
TWO = '{"name": "two", "arguments": {}}'
THOUGHT = "<think>hm\nhm</think>\n\n"


@pytest.fixture(scope="module", params=["tokens", "text"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """With tags as tokens of their own, and spelled out."""
    made = byte_level_tokenizer()
    if request.param == "tokens":
        tags = ["</think>", "<tool_call>", "</tool_call>"]
        made.add_tokens([AddedToken(tag, special=False) for tag in tags])
        return made
    return Tokenizer.from_str(made.to_str().replace('"<think>"', '"<unused>"'))


@pytest.fixture(scope="module")
def known(tokenizer: Tokenizer) -> LLTokenizer:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    return llguidance.hf.from_tokenizer(fast)


def is_whole(tokenizer: Tokenizer, known: LLTokenizer, rules: CallRules, reply: str) -> bool:
    """Whether a reply may be given, and end there."""
    grammar = call_grammar(TOOLS, rules, lambda tag: tokenizer.token_to_id(tag) is not None)
    matcher = LLMatcher(known, LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(reply, add_special_tokens=False).ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


HERMES = CallRules(ToolFormat.HERMES)


@pytest.mark.parametrize(
    ("rules", "reply", "expected"),
    [
        (HERMES, f"<tool_call>\n{ONE}\n</tool_call>", True),
        (HERMES, f"<tool_call>\n{TWO}\n</tool_call>\n<tool_call>\n{ONE}\n</tool_call>", True),
        (HERMES, f"<tool_call>\n{ONE.replace('3', 'true')}\n</tool_call>", False),
        (HERMES, f"<tool_call>\n{TWO.replace('two', 'six')}\n</tool_call>", False),
        (HERMES, f"<tool_call>\n{ONE}", False),
        (HERMES, "hello", False),
        (HERMES, "", False),
        (HERMES, f"{THOUGHT}<tool_call>\n{ONE}\n</tool_call>", False),
        (
            CallRules(ToolFormat.HERMES, may_call_many=False),
            f"<tool_call>\n{TWO}\n</tool_call>\n<tool_call>\n{TWO}\n</tool_call>",
            False,
        ),
        (
            CallRules(ToolFormat.HERMES, may_think=True),
            f"{THOUGHT}<tool_call>\n{ONE}\n</tool_call>",
            True,
        ),
        (CallRules(ToolFormat.HERMES, may_think=True), f"<tool_call>\n{ONE}\n</tool_call>", True),
        (CallRules(ToolFormat.HERMES, may_think=True), THOUGHT, False),
        (
            CallRules(ToolFormat.HERMES, is_thinking=True),
            f"{THOUGHT[7:]}<tool_call>\n{ONE}\n</tool_call>",
            True,
        ),
        (CallRules(ToolFormat.LLAMA3), ONE.replace("arguments", "parameters"), True),
        (CallRules(ToolFormat.LLAMA3), ONE, False),
    ],
)
def test_only_calls_are_let_through(
    tokenizer: Tokenizer, known: LLTokenizer, rules: CallRules, reply: str, expected: bool
) -> None:
    assert is_whole(tokenizer, known, rules, reply) is expected
