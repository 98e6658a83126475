"""Log lines of both forms."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from baton.rpc import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()


def test_a_json_line_says_who_which_request_and_what(stream: io.StringIO) -> None:
    logs.configure("decode", "decode-1", form="json", stream=stream)
    logs.bind(request_id="r1", trace_id="")

    logs.get_logger("some.module").info("admitted", num_blocks=3)

    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "service": "decode",
        "worker_id": "decode-1",
        "request_id": "r1",
        "logger": "some.module",
        "level": "info",
        "event": "admitted",
        "num_blocks": 3,
    }


def test_the_short_road_writes_the_same_line(stream: io.StringIO) -> None:
    logs.configure("decode", "decode-1", form="json", stream=stream)
    logs.bind(request_id="r1")

    logs.get_logger("some.module").info("ended", seconds=0.5, who="\u00e9")
    logs.info("some.module", "ended", seconds=0.5, who="\u00e9")

    long, short = map(json.loads, stream.getvalue().splitlines())
    assert len(long.pop("timestamp")) == len(short.pop("timestamp"))
    assert long == short


def test_the_short_road_keeps_to_level_and_form(stream: io.StringIO) -> None:
    logs.configure(form="json", level="warning", stream=stream)
    logs.info("x", "quiet")
    logs.configure(form="terminal", stream=stream)
    logs.info("x", "shown", n=1)

    assert "quiet" not in stream.getvalue()
    assert "n=1" in stream.getvalue()


def test_lines_of_the_standard_library_look_the_same(stream: io.StringIO) -> None:
    logs.configure("decode", form="json", stream=stream)
    logs.bind(request_id="r1")

    logging.getLogger("library").warning("lost %d", 3, extra={"peer": "x"})

    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["request_id"]) == ("lost 3", "warning", "r1")
    assert (line["service"], line["logger"], line["peer"]) == ("decode", "library", "x")


def test_a_traceback_stays_on_one_json_line(stream: io.StringIO) -> None:
    logs.configure(form="json", stream=stream)

    try:
        raise ValueError("broken")
    except ValueError:
        logs.get_logger("x").exception("failed")

    assert stream.getvalue().count("\n") == 1
    assert "ValueError: broken" in json.loads(stream.getvalue())["exception"]


def test_a_terminal_line_leaves_out_what_all_lines_share(stream: io.StringIO) -> None:
    logs.configure("decode", "decode-1", form="terminal", stream=stream)

    logs.get_logger("x").info("ready", address="127.0.0.1:80")

    line = stream.getvalue()
    assert "ready" in line
    assert "address=127.0.0.1:80" in line
    assert "decode-1" not in line
    assert "\x1b" not in line


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    logs.configure(form="json", level="warning", stream=stream)

    logs.get_logger("x").info("quiet")
    logs.get_logger("x").warning("loud")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_auto_is_json_unless_the_stream_is_a_terminal(stream: io.StringIO) -> None:
    logs.configure(stream=stream)

    logs.get_logger("x").info("ready")

    assert json.loads(stream.getvalue())["event"] == "ready"
