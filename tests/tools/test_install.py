"""Decisions of the installer, and what the lock may hold."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tools import install

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text()


@pytest.mark.parametrize(
    ("version", "is_supported"),
    [
        ("2.11.0", True),
        ("2.13.0+cpu", True),
        ("2.13.1+cu130", True),
        ("2.10.9", False),
        ("2.14.0", False),
        ("3.0", False),
        ("", False),
        ("unknown", False),
    ],
)
def test_torch_in_the_supported_range_is_kept(version, is_supported):
    assert install._is_supported(version) is is_supported


def test_ranges_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    torch = next(word for word in project["optional-dependencies"]["engine"] if "torch" in word)
    assert torch == "torch>=2.11,<2.14"
    assert project["requires-python"] == ">=3.11,<3.14"
    assert (install.OLDEST_TORCH, install.NEWEST_TORCH) == ((2, 11), (2, 13))
    assert (install.OLDEST_PYTHON, install.NEWEST_PYTHON) == ((3, 11), (3, 13))


def test_done_installation_is_not_repeated_until_something_changes(tmp_path, monkeypatch, capsys):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(install.sys.executable))
    (tmp_path / "pyvenv.cfg").write_text("version = 3.11\n")
    runs: list[str] = []
    monkeypatch.setattr(install, "_install", lambda folder, python, extras: runs.append(extras))
    monkeypatch.setattr(install.sys, "argv", ["install.py", "--venv", str(tmp_path)])

    install.main()
    install.main()
    (tmp_path / "pyvenv.cfg").write_text("version = 3.12\n")
    install.main()

    assert runs == ["all", "all"]


def test_failed_installation_says_so_and_leaves_no_stamp(tmp_path, monkeypatch, capsys):
    def fail(folder, python, extras):
        raise install.InstallError("pip could not install.")

    monkeypatch.setattr(install, "_install", fail)
    monkeypatch.setattr(install.sys, "argv", ["install.py", "--venv", str(tmp_path)])

    assert install.main() == 1
    assert capsys.readouterr().err == "error: pip could not install.\n"
    assert list(tmp_path.glob(".baton-*")) == []


def test_python_without_pip_is_a_sentence(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)

    with pytest.raises(install.InstallError, match=r"install `python3\.\d+-venv`"):
        install._ensure_pip(python)


@pytest.mark.parametrize(
    ("torch", "is_shared"), [("2.12.1+cu130", True), ("2.9.0", False), ("", False)]
)
def test_torch_of_the_base_interpreter_is_shared_where_it_fits(
    monkeypatch, tmp_path, torch, is_shared
):
    asked: list[dict[str, object]] = []

    class Builder:
        def __init__(self, **options):
            asked.append(options)

        def create(self, folder):
            pass

    monkeypatch.setattr(install, "_version", lambda python, package: torch)
    monkeypatch.setattr(install.venv, "EnvBuilder", Builder)

    install._make_venv(tmp_path)

    assert asked[0]["system_site_packages"] is is_shared


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "  Downloading grpcio-1.85.1-cp311-cp311-manylinux_2_17_x86_64.whl (7.4 MB)",
            ("grpcio", "1.85.1", "(7.4 MB)"),
        ),
        ("Processing /some/where/rich-15.0.0-py3-none-any.whl", ("rich", "15.0.0", None)),
        ("Collecting rich", None),
    ],
)
def test_wheels_are_read_from_what_pip_says(line, shown):
    match = install._WHEEL.search(line)

    assert (match and match.groups()) == shown


def test_python_too_old_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 2))
    monkeypatch.setattr(install.sys, "argv", ["install.py"])

    assert install.main() == 1
    assert "This is Python 3.10; Baton needs 3.11 to 3.13." in capsys.readouterr().err


def test_interpreter_in_range_is_found():
    found = subprocess.run(["sh", ROOT / "tools" / "find-python"], capture_output=True, text=True)

    assert re.fullmatch(r"python3(\.1[123])?", found.stdout.strip())


def test_lock_leaves_torch_to_the_machine():
    names = {line.partition("==")[0] for line in LOCK.splitlines() if "==" in line}

    assert {name for name in names if re.match("torch|triton(?!client)|nvidia|cuda", name)} == {
        "nvidia-ml-py"
    }


def test_lock_names_no_place():
    assert not re.search(r"https?://|file://|--index|--find-links|/opt/|\+cpu", LOCK)


def test_everything_we_ask_for_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(word for words in extras for word in words)]
    names = {re.match(r"[A-Za-z0-9._-]+", word)[0].lower() for word in wanted}

    locked = {line.partition("==")[0].lower() for line in LOCK.splitlines()}
    assert names - locked == {"torch", "triton", "baton-serve"}
