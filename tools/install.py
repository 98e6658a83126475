"""Makes `.venv` and installs Baton into it: torch first, the rest under `requirements.lock`.

Needs nothing but Python's standard library. Where packages come from is pip's own configuration.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
OLDEST_TORCH, NEWEST_TORCH = (2, 11), (2, 13)
TORCH = "torch==2.13.0"
"""What is installed where no torch in the supported range is found."""

TRITON = "triton==3.6.0"
"""Checks kernels for GPUs where there is none; builds of torch with CUDA bring their own."""

# What pip says of each file it takes, as in "Downloading torch-2.13.0-cp311-….whl (190.0 MB)".
_WHEEL = re.compile(
    r"(?:Downloading|Processing) (?:\S*/)?(?P<name>[^\s/-]+)-(?P<version>[^\s-]+)-\S+\.whl"
    r"(?: (?P<size>\([\d.]+ [kMG]?B\)))?"
)

_FIND_VERSION = """
import importlib.metadata
import sys
try:
    print(importlib.metadata.version(sys.argv[1]))
except importlib.metadata.PackageNotFoundError:
    print("")
"""


def main() -> int:
    """Installs, unless a stamp says that it has been done."""
    arguments = _parse_arguments()
    started = time.monotonic()
    version = sys.version_info[:2]
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        return _fail(
            f"This is Python {version[0]}.{version[1]}; Baton needs 3.11 to 3.13. "
            "Name one with `make PYTHON=/path/to/python3.12 ...`."
        )
    python = arguments.venv / "bin" / "python"
    stamp = arguments.venv / f".baton-{arguments.extras}"
    if _works(python) and stamp.exists() and stamp.read_text() == _fingerprint(python):
        return 0
    try:
        _install(arguments.venv, python, arguments.extras)
    except InstallError as error:
        return _fail(str(error))
    stamp.write_text(_fingerprint(python))
    _say(f"installed in {time.monotonic() - started:.0f} s")
    return 0


class InstallError(Exception):
    """A step of the installation failed; the message says what to do."""


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder to make")
    parser.add_argument(
        "--extras", default="all", help="extras of pyproject.toml: all (to run), dev (to test)"
    )
    return parser.parse_args()


def _install(folder: Path, python: Path, extras: str) -> None:
    if not _works(python):
        _make_venv(folder)
    _ensure_pip(python)
    torch = _version(python, "torch")
    if torch and _is_supported(torch):
        _say(f"keeping torch {torch}")
        wanted = ["setuptools"]
    else:
        wanted = ["setuptools", os.environ.get("TORCH", TORCH)]
        _say(f"installing {wanted[-1]} (the largest part, once)")
    _pip(python, *os.environ.get("TORCH_ARGS", "").split(), *wanted)
    if extras == "dev" and sys.platform == "linux" and not _version(python, "triton"):
        _say(f"installing {TRITON} to check kernels")
        _pip(python, TRITON)
    _say(f"installing Baton with its `{extras}` parts")
    # Without isolation the build uses the setuptools just installed instead of fetching another.
    _pip(python, "--no-build-isolation", "--editable", f"{ROOT}[{extras}]")


def _make_venv(folder: Path) -> None:
    base_torch = _version(Path(sys.executable), "torch")
    keep = _is_supported(base_torch)
    shown = f"{folder.name} with Python {sys.version.split()[0]}"
    _say(f"making {shown}" + (f", sharing this Python's torch {base_torch}" if keep else ""))
    try:
        venv.EnvBuilder(
            with_pip=True, clear=folder.exists(), symlinks=True, system_site_packages=keep
        ).create(folder)
    except subprocess.CalledProcessError as error:
        raise InstallError(_NO_VENV.format(folder)) from error


def _ensure_pip(python: Path) -> None:
    if subprocess.run([python, "-c", "import pip"], capture_output=True).returncode == 0:
        return
    if subprocess.run([python, "-m", "ensurepip"], capture_output=True).returncode:
        raise InstallError(_NO_VENV.format(python.parent.parent))


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "install", "--constraint", str(LOCK), *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # On a terminal pip draws its own progress bars; elsewhere a line per download is enough.
    if sys.stdout.isatty():
        if subprocess.run(command, env=environment).returncode:
            raise InstallError(_PIP_FAILED)
        return
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines: list[str] = []
    for line in process.stdout or ():
        lines.append(line)
        if wheel := _WHEEL.search(line):
            print(
                f"    {wheel['name']} {wheel['version']} {wheel['size'] or ''}".rstrip(), flush=True
            )
    if process.wait():
        sys.stderr.writelines(lines[-30:])
        raise InstallError(_PIP_FAILED)


_NO_VENV = (
    "Python's venv module could not make {} with pip in it; on Debian and Ubuntu install "
    f"`python3.{sys.version_info[1]}-venv`, then run this again."
)
_PIP_FAILED = (
    "pip could not install (its last words are above); check the network and pip's own settings "
    "(`python3 -m pip config list`), then run this again."
)


def _version(python: Path, package: str) -> str:
    """Version of a package that this interpreter would import, empty where there is none."""
    command = [str(python), "-c", _FIND_VERSION, package]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip()


def _is_supported(torch: str) -> bool:
    numbers = torch.split(".")[:2]
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers):
        return False
    return OLDEST_TORCH <= (int(numbers[0]), int(numbers[1])) <= NEWEST_TORCH


def _works(python: Path) -> bool:
    if not python.exists():
        return False
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def _fingerprint(python: Path) -> str:
    """Changes when anything that decides what is installed changes."""
    digest = hashlib.sha256()
    for path in (LOCK, ROOT / "pyproject.toml", python.parent.parent / "pyvenv.cfg"):
        digest.update(path.read_bytes())
    digest.update(os.environ.get("TORCH", TORCH).encode())
    return digest.hexdigest()


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


def _fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
