"""Stop strings against a search in the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.text import StopStrings


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Grows the text by one character at a time and asks whether a stop string has just ended."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


def scan(pieces: list[str], stops: list[str]) -> tuple[list[str], str | None]:
    scanner = StopStrings(stops)
    out = []
    for piece in pieces:
        safe, hit = scanner.push(piece)
        out.append(safe)
        if hit is not None:
            return out, hit
    return [*out, scanner.flush()], None


few_letters = st.text("ab.", max_size=30)


@settings(max_examples=500, deadline=None)
@given(
    pieces=st.lists(st.text("ab.", max_size=5), max_size=12),
    stops=st.lists(st.text("ab.", min_size=1, max_size=5), min_size=1, max_size=4),
)
def test_pieces_give_what_the_whole_text_gives(pieces: list[str], stops: list[str]) -> None:
    out, hit = scan(pieces, stops)

    assert ("".join(out), hit) == naive("".join(pieces), stops)


@settings(max_examples=300, deadline=None)
@given(
    text=few_letters, stops=st.lists(st.text("ab.", min_size=1, max_size=6), min_size=1, max_size=4)
)
def test_no_more_is_held_back_than_could_begin_a_stop_string(text: str, stops: list[str]) -> None:
    if naive(text, stops)[1] is not None:
        return
    scanner = StopStrings(stops)

    shown = "".join(scanner.push(character)[0] for character in text)

    could_begin = [
        length
        for length in range(len(text) + 1)
        if any(len(stop) > length and stop.startswith(text[len(text) - length :]) for stop in stops)
    ]
    assert shown == text[: len(text) - max(could_begin)]
    assert shown + scanner.flush() == text


def test_a_stop_string_across_three_pieces_is_found() -> None:
    out, hit = scan(["one\n", "\nUs", "er: two"], ["\n\nUser:"])

    assert out == ["one", "", ""]
    assert hit == "\n\nUser:"


def test_a_false_start_goes_out_when_it_is_refuted() -> None:
    scanner = StopStrings(["</s>"])

    assert scanner.push("a <") == ("a ", None)
    assert scanner.push("/b") == ("</b", None)


@pytest.mark.parametrize(
    ("stops", "expected"),
    [(["abcd", "bc"], ("a", "bc")), (["bc", "abc"], ("", "abc")), (["c", "abcd"], ("ab", "c"))],
)
def test_the_match_complete_first_wins_then_the_longest(
    stops: list[str], expected: tuple[str, str]
) -> None:
    assert StopStrings(stops).push("abcd") == expected


def test_text_pushed_while_disabled_is_no_part_of_a_match() -> None:
    scanner = StopStrings(["stop"])

    assert scanner.push("stop, st", enabled=False) == ("stop, st", None)
    assert scanner.push("op and s") == ("op and ", None)
    assert scanner.push("top") == ("", "stop")


def test_disabling_releases_what_was_held() -> None:
    scanner = StopStrings(["stop"])

    assert scanner.push("a sto") == ("a ", None)
    assert scanner.push("p", enabled=False) == ("stop", None)


def test_without_stop_strings_everything_passes_at_once() -> None:
    scanner = StopStrings([])

    assert scanner.is_empty
    assert scanner.push("anything") == ("anything", None)
    assert scanner.flush() == ""
