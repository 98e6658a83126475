"""The command line from outside: exit codes, sentences instead of tracebacks, fast help."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from baton.cli.app import parse_extra

ROOT = Path(__file__).resolve().parents[2]


def run_baton(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "baton.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("command", ["", "up", "demo", "generate", "chat", "doctor"])
def test_help_teaches_with_an_example_or_a_next_step(command):
    result = run_baton(*command.split(), "--help")

    assert result.returncode == 0
    assert "Example" in result.stdout or "baton demo" in result.stdout or command == "doctor"


def test_error_is_one_sentence():
    result = run_baton("up", "--model", "/no/such/folder")

    assert result.returncode == 1
    assert result.stderr == (
        "error: /no/such/folder holds no config.json; --model names a Hugging Face model folder.\n"
    )


def test_debug_shows_where_an_error_comes_from():
    result = run_baton("up", "--debug", "--model", "/no/such/folder")

    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_unknown_flag_is_a_usage_error():
    result = run_baton("up", "--no-such-flag")

    assert result.returncode == 2
    assert "No such option" in result.stderr


def test_extra_flags_are_sorted_by_kind():
    extra = parse_extra(
        ["decode:--kv-bytes=1GiB", "gateway:--max-requests=9", "decode:--dtype=auto"]
    )

    assert extra == {
        "decode": ["--kv-bytes=1GiB", "--dtype=auto"],
        "gateway": ["--max-requests=9"],
    }


@pytest.mark.parametrize("word", ["decode", "redis:--x=1", "decode:kv=1", ":--x"])
def test_extra_flag_without_kind_or_dashes_is_refused(word):
    with pytest.raises(typer.BadParameter, match="must read KIND:--flag=value"):
        parse_extra([word])
