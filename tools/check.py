"""Runs every check of `make check`, all of them even if one fails, and says how long each took."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STEPS = {
    "format": ("ruff", "format", "--check", "."),
    "lint": ("ruff", "check", "."),
    "types": ("mypy",),
    "imports": ("lint-imports", "--no-logo"),
    "protos": (sys.executable, "-m", "tools.protos", "check"),
}


def main() -> int:
    """Exit code 1 if any step fails."""
    # Tools of the environment this runs in come first, whatever is on the PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    failed = []
    for name, command in STEPS.items():
        started = time.monotonic()
        print(f"== {name}: {Path(command[0]).name} {' '.join(command[1:])}", flush=True)
        result = subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path})
        print(f"   {time.monotonic() - started:.1f} s", flush=True)
        if result.returncode:
            failed.append(name)
    if failed:
        print(f"check: failed in {', '.join(failed)}; `make fix` repairs format and most lint")
        return 1
    print("check: in order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
