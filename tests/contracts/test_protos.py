"""The wire contract: style, lock and stubs, and that each check can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="protoc comes with the `dev` extra")

from tools.protos import drift, lock, style
from tools.protos.files import compile_protos

GOOD = """
syntax = "proto3";
package baton.v1;
// Serves tea.
service TeaService {
  // Pours a cup.
  rpc Pour(PourRequest) returns (PourResponse);
}
// Asks for a cup.
message PourRequest {
  // Which cups.
  repeated string cup_ids = 1;
}
// A cup.
message PourResponse {
  // How it went.
  Outcome outcome = 1;
}
// How pouring went.
enum Outcome {
  // Not poured.
  OUTCOME_UNSPECIFIED = 0;
}
"""


@pytest.fixture(scope="module")
def protos():
    return compile_protos()


def write_and_compile(folder: Path, text: str):
    path = folder / "baton" / "v1" / "tea.proto"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return compile_protos(folder)


def test_protos_follow_the_style(protos):
    assert style.find_problems(protos) == []


def test_nothing_on_the_wire_has_changed(protos):
    assert lock.find_problems(protos) == []


def test_stubs_are_what_the_protos_say(protos):
    assert drift.find_problems(protos) == []


def test_good_proto_has_no_problem(tmp_path):
    assert style.find_problems(write_and_compile(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("good", "bad", "problem"),
    [
        ("// Pours a cup.", "", "TeaService.Pour: has no comment"),
        ("// Which cups.", "// which cups", "PourRequest.cup_ids: its comment is not a sentence"),
        ("TeaService", "Tea", "Tea: a service's name ends in `Service`"),
        ("PourRequest", "TeaAsk", "TeaService.Pour: its messages are called PourRequest"),
        ("cup_ids", "cup_id", "PourRequest.cup_id: a repeated field's name is a plural"),
        (
            "cup_ids",
            "cups_for_you",
            "PourRequest.cups_for_you: a field's name holds no preposition",
        ),
        ("cup_ids", "cupIds", "PourRequest.cupIds: a field's name is lower_snake_case"),
        ("cup_ids = 1", "cup_ids = 2", "PourRequest: number 1 is neither used nor reserved"),
        ("OUTCOME_UNSPECIFIED", "OUTCOME_NONE", "OUTCOME_NONE: zero is called"),
        ("OUTCOME_UNSPECIFIED", "NOTHING", "NOTHING: a value of Outcome begins with OUTCOME_"),
        ("package baton.v1", "package baton.v2", "package baton.v2 is not the folder's name"),
    ],
)
def test_broken_rule_is_named(tmp_path, good, bad, problem):
    problems = style.find_problems(write_and_compile(tmp_path, GOOD.replace(good, bad)))

    assert any(problem in found for found in problems), problems


def test_only_names_of_the_foreign_protocol_may_break_rules(protos):
    foreign = next(file for file in protos if file.package == style.FOREIGN_PACKAGE)
    copy = type(foreign)()
    copy.CopyFrom(foreign)
    copy.message_type.add(name="Ours").field.add(name="cupIds", number=1)
    copy.source_code_info.Clear()

    problems = style.find_problems([copy])

    assert "Ours.cupIds: a field's name is lower_snake_case" in problems
    assert "ModelConfig.input: has no comment" in problems
    assert "ModelConfig.input: a repeated field's name is a plural" not in problems


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("cup_ids = 1", "cup_ids = 2"),
        ("repeated string", "repeated bytes"),
        ("string cup_ids", "string mug_ids"),
        ("returns (PourResponse)", "returns (stream PourResponse)"),
        ("OUTCOME_UNSPECIFIED", "OUTCOME_NONE"),
    ],
)
def test_changed_wire_is_refused_and_the_lock_kept(tmp_path, good, bad):
    path = tmp_path / "v1.lock"
    lock.extend(write_and_compile(tmp_path, GOOD), path)
    before = path.read_text()

    problems = lock.extend(write_and_compile(tmp_path, GOOD.replace(good, bad)), path)

    assert len(problems) == 1
    assert "must stay" in problems[0]
    assert path.read_text() == before


def test_added_field_is_asked_for_and_then_locked(tmp_path):
    path = tmp_path / "v1.lock"
    lock.extend(write_and_compile(tmp_path, GOOD), path)
    more = GOOD.replace("= 1;\n}\n// A cup.", "= 1;\n  // Milk.\n  bool milk = 2;\n}\n// A cup.")
    files = write_and_compile(tmp_path, more)

    before = lock.find_problems(files, path)
    added = lock.extend(files, path)

    assert [problem for problem in before if "PourRequest.milk = 2 bool" in problem]
    assert added == []
    assert lock.find_problems(files, path) == []


def test_changed_proto_is_drift(protos):
    changed = next(file for file in protos if file.name.endswith("types.proto"))
    copy = type(changed)()
    copy.CopyFrom(changed)
    copy.message_type[0].field[0].number = 99

    assert drift.find_problems([copy])[0].startswith("baton/v1/types_pb2.py: differs")
