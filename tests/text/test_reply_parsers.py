"""Parsers of tool calls and reasoning: whatever the cuts, the same reply; nothing is lost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.text.call_reader import HOLD_CHARACTERS
from baton.text.hermes import HermesParser
from baton.text.llama3 import Llama3Parser
from baton.text.reply import CallDelta, Chain, Delta, Parser, ReasoningDelta, TextDelta
from baton.text.thinking import ThinkParser, is_left_open

LONG = json.dumps({"name": "write", "arguments": {"text": 'x{}\\n"' * HOLD_CHARACTERS}})
LONG_LLAMA = LONG.replace('"arguments"', '"parameters"')
NAMES = {"weather", "time", "write"}


def hermes() -> HermesParser:
    ids = map(str, itertools.count())
    return HermesParser(new_id=lambda: next(ids))


def llama3() -> Llama3Parser:
    ids = map(str, itertools.count())
    return Llama3Parser(NAMES, new_id=lambda: next(ids))


def read(parser: Parser, *pieces: str) -> tuple[str, str, list[tuple[str, str, str]]]:
    """Reasoning, text and calls (id, name, arguments)."""
    deltas: list[Delta] = [delta for piece in pieces for delta in parser.push(piece)]
    deltas += parser.flush()
    calls: list[list[str]] = []
    for delta in deltas:
        if isinstance(delta, CallDelta):
            if delta.index == len(calls):
                assert delta.call_id
                assert delta.name
                calls.append([delta.call_id, delta.name, ""])
            else:
                assert delta.index == len(calls) - 1
                assert not delta.call_id
                assert not delta.name
                assert delta.arguments
            calls[-1][2] += delta.arguments
        else:
            assert delta.text, "no delta is empty"
    return (
        "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)),
        "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)),
        [(call[0], call[1], call[2]) for call in calls],
    )


CALL = '{"name": "weather", "arguments": {"city": "Köln 😀 </tool_call> } \\""}}'
ARGUMENTS = '{"city": "Köln 😀 </tool_call> } \\""}'


@pytest.mark.parametrize(
    ("reply", "text", "calls"),
    [
        ("hello <tool", "hello <tool", []),
        (f"<tool_call>\n{CALL}\n</tool_call>", "", [("0", "weather", ARGUMENTS)]),
        (
            f"Let me see.\n\n<tool_call>{CALL}</tool_call>\n<tool_call>\n"
            '{"arguments": {}, "name": "time", "id": 3}\n</tool_call>\n',
            "Let me see.",
            [("0", "weather", ARGUMENTS), ("1", "time", "{}")],
        ),
        (f"<tool_call>{CALL} and more", "and more", [("0", "weather", ARGUMENTS)]),
        (f"a<tool_call>{LONG}</tool_call> b", "ab", [("0", "write", LONG[31:-1])]),
    ],
)
def test_hermes_calls_are_read(reply: str, text: str, calls: list[tuple[str, str, str]]) -> None:
    assert read(hermes(), reply) == ("", text, calls)


@pytest.mark.parametrize(
    "reply",
    [
        "<tool_call>not json</tool_call> go on",
        "<tool_call>",
        "a <tool_call>\n",
        '<tool_call>{"name": "weather", "arguments": {"a": }}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"city": ',
        '<tool_call>{"name": "weather", "arguments": "text"}</tool_call>',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather"}</tool_call>',
        '<tool_call>[{"name": "weather", "arguments": {}}]</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"a": "\n"}}</tool_call>',
        "<tool_call>{" + '"a":{' * 400,
    ],
)
def test_what_is_no_call_stays_text(reply: str) -> None:
    assert read(hermes(), reply) == ("", reply, [])


def test_a_call_behind_a_broken_one_is_read() -> None:
    text, calls = read(hermes(), f"<tool_call>{{<tool_call>{CALL}</tool_call>")[1:]

    assert text == "<tool_call>{"
    assert [call[1] for call in calls] == ["weather"]


@pytest.mark.parametrize(
    ("reply", "text", "calls"),
    [
        ('{"name": "time", "parameters": {}}', "", [("0", "time", "{}")]),
        (
            '<|python_tag|>{"type": "function", "name": "time", "parameters": {"a": 1}}; '
            '{"name": "weather", "arguments": {}}',
            "",
            [("0", "time", '{"a": 1}'), ("1", "weather", "{}")],
        ),
        (f"{LONG_LLAMA};{LONG_LLAMA}", "", [(n, "write", LONG[31:-1]) for n in "01"]),
        ('Now: <|python_tag|>{"name": "time", "parameters": {}}', "Now:", [("0", "time", "{}")]),
        ('{"name": "Bob", "parameters": {}}', '{"name": "Bob", "parameters": {}}', []),
        ('{"name": "time", "age": 3}', '{"name": "time", "age": 3}', []),
        ("<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
        ('say {"name": "time", "parameters": {}}', 'say {"name": "time", "parameters": {}}', []),
        ('{"name": "time", "parameters": {}}; {oh', "{oh", [("0", "time", "{}")]),
    ],
)
def test_llama3_calls_are_read(reply: str, text: str, calls: list[tuple[str, str, str]]) -> None:
    assert read(llama3(), reply) == ("", text, calls)


def test_a_long_call_is_told_while_it_comes() -> None:
    parser = hermes()

    early = parser.push(f"<tool_call>{LONG[:400]}")
    later = parser.push(LONG[400:500])

    assert early == [CallDelta(0, LONG[31:400], "0", "write")]
    assert later == [CallDelta(0, LONG[400:500])]


def test_a_long_call_that_breaks_or_ends_early_keeps_its_arguments() -> None:
    broken = LONG[:401] + '" ?] still}</tool_call> text'

    assert read(hermes(), f"<tool_call>{broken}")[1:] == (
        "text",
        [("0", "write", LONG[31:401] + '" ?] still}')],
    )
    assert read(hermes(), f"<tool_call>{LONG[:401]}")[1:] == ("", [("0", "write", LONG[31:401])])
    assert read(llama3(), LONG_LLAMA[:401] + '" }] still')[1:] == (
        "",
        [("0", "write", LONG_LLAMA[32:401] + '" }] still')],
    )


def test_no_more_calls_than_allowed_are_told() -> None:
    parser = HermesParser(max_calls=1, new_id=lambda: "0")

    read_calls = read(parser, f"<tool_call>{CALL}</tool_call><tool_call>{LONG}</tool_call>")[2]

    assert [name for _, name, _ in read_calls] == ["weather"]


@pytest.mark.parametrize(
    ("reply", "is_open", "reasoning", "text"),
    [
        ("<think>\nhm, 1 < 2\n</think>\n\n4.\n", False, "hm, 1 < 2", "4.\n"),
        ("\n<think></think>4", False, "", "4"),
        ("hm</think>4", True, "hm", "4"),
        ("</think>4", True, "", "4"),
        ("hm, so", True, "hm, so", ""),
        ("<think>hm </thi", False, "hm </thi", ""),
        (" 4 <think>no</think>", False, "", " 4 <think>no</think>"),
        ("<thin", False, "", "<thin"),
    ],
)
def test_reasoning_is_split_off(reply: str, is_open: bool, reasoning: str, text: str) -> None:
    assert read(ThinkParser(is_open), reply) == (reasoning, text, [])


def test_a_prompt_may_leave_the_tag_open() -> None:
    assert is_left_open("<|im_start|>assistant\n<think>\n")
    assert not is_left_open("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_calls_are_read_behind_reasoning_and_not_in_it() -> None:
    reply = f"<think><tool_call>{CALL}</tool_call></think>\n<tool_call>{CALL}</tool_call>"

    reasoning, text, calls = read(Chain(ThinkParser(), hermes()), reply)

    assert reasoning == f"<tool_call>{CALL}</tool_call>"
    assert (text, [name for _, name, _ in calls]) == ("", ["weather"])


FRAGMENTS = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>", ";", "\n", " ", "a"),
    *("<", "{", "}", '"', "[", "]", "\\", "😀", "e\u0301"),
    *(CALL, LONG, LONG_LLAMA, LONG_LLAMA[:300], '{"name": "time", "parameters": {}}'),
    *('{"name": "time",', '"arguments": {', "text"),
]
MAKERS: list[Callable[[], Parser]] = [
    hermes,
    llama3,
    ThinkParser,
    lambda: ThinkParser(is_open=True),
    lambda: Chain(ThinkParser(), hermes()),
    lambda: Chain(ThinkParser(), llama3()),
]


@pytest.mark.parametrize("make", MAKERS)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.data())
def test_any_cut_gives_the_same_reply(
    make: Callable[[], Parser], fragments: list[str], data: st.DataObject
) -> None:
    reply = "".join(fragments)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(reply)), max_size=8)))
    pieces = [reply[a:b] for a, b in itertools.pairwise([0, *cuts, len(reply)])]

    whole = read(make(), reply)

    assert read(make(), *pieces) == whole
    assert read(make(), *reply) == whole


@pytest.mark.parametrize("make", MAKERS)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12))
def test_no_letter_is_lost(make: Callable[[], Parser], fragments: list[str]) -> None:
    reply = "".join(fragments)

    reasoning, text, calls = read(make(), reply)

    told = reasoning + text + "".join(name + arguments for _, name, arguments in calls)
    for letter in "a😀\u0301[]":
        assert told.count(letter) + 10 * len(calls) >= reply.count(letter)
    if not calls and not reasoning:
        squeezed = "".join(text.split())
        assert squeezed in "".join(reply.split())
        assert len(squeezed) >= len("".join(reply.split())) - len("<think></think>") * 12
