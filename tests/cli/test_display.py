"""What is printed of processes."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from baton.cli.display import Display
from baton.cli.errors import ProcessFailed
from baton.cli.supervisor import State


@pytest.fixture
def console():
    return Console(file=StringIO(), width=60)


def printed(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_lines_stand_behind_names_of_equal_width(console):
    display = Display(console, ["redis", "gateway-0"])

    display.on_line("redis", "ready")
    display.on_line("gateway-0", "listening")

    assert printed(console) == ["redis     | ready", "gateway-0 | listening"]


def test_lines_are_neither_wrapped_nor_read_as_markup(console):
    display = Display(console, ["redis"])
    line = "[bold]not bold[/] [/nothing] " + "x" * 100

    display.on_line("redis", line)

    assert printed(console) == [f"redis | {line}"]


def test_json_lines_stay_as_they_are(console):
    display = Display(console, ["redis"], prefixed=False)

    display.on_line("redis", '{"event": "[red]ready"}')

    assert printed(console) == ['{"event": "[red]ready"}']


def test_quiet_display_keeps_lines_to_itself(console):
    display = Display(console, ["redis"], quiet=["redis"])

    display.on_line("redis", "ready")

    assert printed(console) == []


def test_last_words_of_a_failed_process_are_shown_once(console):
    failure = ProcessFailed("redis ended.", "redis", ["no room", "goodbye"])

    Display(console, ["redis"], quiet=["redis"]).show_failure(failure)
    Display(console, ["redis"]).show_failure(failure)

    assert printed(console) == ["redis | no room", "redis | goodbye"]


def test_falls_are_told_without_a_terminal(console):
    display = Display(console, ["redis"], quiet=["redis"])

    with display:
        display.on_state("redis", State.STARTING)
        display.on_state("redis", State.READY)
        display.on_state("redis", State.FALLEN, "exit code 1; starting again in 0.1 s")

    assert printed(console)[0].split()[:2] == ["redis", "ready"]
    assert printed(console)[1] == "redis | fallen: exit code 1; starting again in 0.1 s"


def test_progress_shows_every_process_and_its_state():
    console = Console(file=StringIO(), width=60)
    display = Display(console, ["redis", "decode-0", "gateway-0"])
    display.on_state("redis", State.STARTING)
    display.on_state("redis", State.READY)
    display.on_state("decode-0", State.STARTING)

    console.print(display)

    rows = [line.split() for line in printed(console)[-3:]]
    assert rows[0][:2] == ["✓", "redis"]
    assert rows[1][1:3] == ["decode-0", "loading"]
    assert rows[2] == ["gateway-0", "waiting"]
