"""Compiles the library for this machine's CPU: once, then it lies in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

_log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent
_SOURCES = ("baton.cpp",)
_FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math"),
)
_COMPILERS = ("g++", "clang++", "c++")
_TIMEOUT_S = 120


LEVELS: dict[str, dict[str, frozenset[str]]] = {
    "x86_64": {
        "x86-64-v4": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "fma"}),
        "x86-64-v3": frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"}),
        "x86-64-v2": frozenset({"sse4_2", "ssse3", "popcnt", "cx16"}),
    },
    "aarch64": {"armv8-a": frozenset({"asimd"})},
}
"""What an image brings builds for, best first, with the features of a CPU that runs them."""


class NativeUnavailable(Exception):
    """Why there is no library, and what to do about it."""


def build(march: str = "native", folder: Path | None = None) -> Path:
    """The compiled library; compiles it unless the same sources were compiled for such a CPU.

    `folder` takes the place of the cache folder. Raises NativeUnavailable. Several processes may
    build at once: each writes a file of its own and renames it, so nobody sees half of one.
    """
    compiler = _compiler()
    flags = (*_FLAGS, f"-march={march}")
    folder = folder or _cache_folder()
    target = folder / f"baton-{_digest(compiler, flags, march)}.so"
    if target.is_file():
        return target
    began = time.perf_counter()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
            made = Path(scratch) / target.name
            _run([compiler, *flags, *map(str, _paths(_SOURCES)), "-o", str(made)])
            made.replace(target)
    except OSError as error:
        raise NativeUnavailable(f"{folder} cannot be written ({error})") from error
    _log.info("native kernels built file=%s seconds=%.1f", target, time.perf_counter() - began)
    return target


def prebuild(folder: Path) -> list[Path]:
    """A library for every level of this kind of machine, for images without a compiler."""
    made = []
    for level in LEVELS.get(platform.machine(), {}):
        path = folder / f"baton-{level}.so"
        build(level, folder).replace(path)
        made.append(path)
    return made


def find_prebuilt(folder: Path) -> Path:
    """The best library in a folder that this CPU runs. Raises NativeUnavailable."""
    for level, needed in LEVELS.get(platform.machine(), {}).items():
        path = folder / f"baton-{level}.so"
        if needed <= _features() and path.is_file():
            return path
    raise NativeUnavailable(f"{folder} (BATON_NATIVE) has no library for this CPU")


def _features() -> frozenset[str]:
    named = ("flags", "Features")
    lines = (line.partition(":") for line in _cpu().splitlines())
    return frozenset(w for name, _, words in lines if name.strip() in named for w in words.split())


def _compiler() -> str:
    named = os.environ.get("CXX", "").split()[:1]
    for name in (*named, *_COMPILERS):
        found = shutil.which(name)
        if found:
            return found
    raise NativeUnavailable(
        f"no C++ compiler ({', '.join((*named, *_COMPILERS))}) is on the PATH; install g++"
    )


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise NativeUnavailable(f"{command[0]} took over {_TIMEOUT_S} s") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-3:]
        raise NativeUnavailable(f"{command[0]} failed: {' / '.join(last) or done.returncode}")


def _digest(compiler: str, flags: Iterable[str], march: str) -> str:
    """Names a build: sources, compiler, flags, and the CPU where `native` stands for it."""
    digest = hashlib.sha256()
    for path in sorted((*SOURCE.glob("*.cpp"), *SOURCE.glob("*.h"))):
        digest.update(path.name.encode() + path.read_bytes())
    status = os.stat(compiler)
    words = (compiler, str(status.st_size), str(status.st_mtime_ns), platform.machine(), *flags)
    digest.update("\0".join(words).encode())
    if march == "native":
        digest.update(_cpu().encode())
    return digest.hexdigest()[:24]


def _cpu() -> str:
    """What `-march=native` looks at: the model and its features."""
    wanted = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    first = text.split("\n\n", 1)[0]
    lines = (line for line in first.splitlines() if line.split(":")[0].strip() in wanted)
    return "\n".join(lines) or platform.processor()


def _paths(names: Iterable[str]) -> list[Path]:
    return [SOURCE / name for name in names]


def _cache_folder() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "baton" / "native"
    try:
        return Path.home() / ".cache" / "baton" / "native"
    except RuntimeError as error:
        raise NativeUnavailable(f"there is no cache folder ({error})") from error


if __name__ == "__main__":
    # As a script it needs neither torch nor any other package.
    for each in prebuild(Path(sys.argv[1])):
        print(each)
