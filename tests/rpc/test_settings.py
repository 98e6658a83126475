"""Settings: precedence, checks and sentences."""

from __future__ import annotations

import pytest
from pydantic import ByteSize, Field
from pydantic_settings import SettingsConfigDict

from baton.rpc.settings import Addresses, ServiceSettings, load


class Settings(ServiceSettings):
    """Serves as an example."""

    model_config = SettingsConfigDict(env_prefix="BATON_EXAMPLE_")

    capacity_bytes: ByteSize = Field(default="1GiB", validate_default=True)
    """Most bytes held."""
    workers: Addresses = ()
    """Workers to use."""


def test_a_flag_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BATON_EXAMPLE_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("BATON_EXAMPLE_GRACE_SECONDS", "7")

    settings = load(Settings, argv=["--listen", "127.0.0.1:2"])

    assert settings.listen == "127.0.0.1:2"
    assert settings.grace_seconds == 7
    assert settings.capacity_bytes == 1 << 30


@pytest.mark.parametrize("argv", [["--workers", "a:1,b:2"], ["--workers=a:1", "--workers", "b:2"]])
def test_several_words_are_separated_by_commas_or_repeated(argv: list[str]) -> None:
    assert load(Settings, argv=argv).workers == ("a:1", "b:2")


def test_several_words_are_separated_by_commas_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BATON_EXAMPLE_WORKERS", "a:1,b:2")

    assert load(Settings, argv=[]).workers == ("a:1", "b:2")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--grace-seconds", "-1"], ["--grace-seconds is '-1'", "greater than or equal to 0"]),
        (["--grace-seconds=soon"], ["--grace-seconds is 'soon'", "number"]),
        (["--listen", "localhost"], ["--listen is 'localhost'", "host:port"]),
        (["--listen", "::1:80"], ["--listen is '::1:80'", "host:port"]),
        (["--listen", "a:65536"], ["--listen is 'a:65536'", "65535"]),
        (["--capacity-bytes", "1XB"], ["--capacity-bytes is '1XB'", "XB"]),
        (["--workers", "a"], ["--workers", "'a'", "host:port"]),
        (["--log-format", "xml"], ["--log-format", "xml", "terminal"]),
        (["--log-level", "loud"], ["--log-level", "loud", "'warning'"]),
        (["--tls-cert", "/nowhere/x"], ["--tls-cert", "/nowhere/x"]),
        (["--nope"], ["--nope"]),
        (["--list", "a:1"], ["--list"]),
        (["--worker-id", "a b"], ["--worker-id is 'a b'"]),
    ],
)
def test_a_bad_value_ends_with_a_sentence_and_exit_code_2(
    argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        load(Settings, prog="example", argv=argv)

    shown = capsys.readouterr().err
    assert end.value.code == 2
    assert "Traceback" not in shown
    assert all(word in shown for word in words), shown


def test_a_bad_variable_is_called_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BATON_EXAMPLE_GRACE_SECONDS", "-2")

    with pytest.raises(SystemExit):
        load(Settings, prog="example", argv=[])

    assert "BATON_EXAMPLE_GRACE_SECONDS is '-2'" in capsys.readouterr().err


def test_half_a_tls_pair_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        load(Settings, prog="example", argv=["--tls-cert", __file__])

    assert "--tls-cert and --tls-key come together" in capsys.readouterr().err


def test_check_validates_and_exits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(Settings, prog="example", argv=["--check"])

    assert end.value.code == 0
    assert "valid" in capsys.readouterr().out


def test_help_is_made_of_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load(Settings, prog="example", argv=["--help"])

    shown = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    assert "Serves as an example." in shown
    assert "Most bytes held. (default: 1GiB)" in shown
    assert "BATON_EXAMPLE_LISTEN" in shown


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:80", "host.name:65535", "unix:/tmp/x"])
def test_addresses_of_all_forms_are_taken(address: str) -> None:
    assert load(Settings, argv=["--listen", address]).listen == address
