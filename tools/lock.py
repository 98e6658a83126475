"""Writes `requirements.lock`: versions of everything but torch, triton and what torch brings.

torch stays out so that whichever build a machine has is kept; see `tools/install.py`. Needs `uv`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
HEADER = """\
# Constraints for Python 3.11 to 3.13, made by `make lock`; do not edit.
# torch, triton and the CUDA packages that come with them are left to the machine.
"""
_OF_TORCH = re.compile(r"^(torch|triton(?!client)|cuda-|nvidia-(?!ml-py))")


def main() -> int:
    """Resolves afresh, preferring the versions that are locked already."""
    command = [
        *(
            "uv",
            "pip",
            "compile",
            "pyproject.toml",
            "--extra",
            "dev",
            "--extra",
            "deploy",
            "--universal",
        ),
        *("--python-version", "3.11", "--output-file", str(LOCK), "--quiet"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
        *sys.argv[1:],
    ]
    # uv does not read pip's settings; without the same folder of wheels it would see another torch.
    environment = {"UV_FIND_LINKS": os.environ.get("PIP_FIND_LINKS", ""), **os.environ}
    try:
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    except FileNotFoundError:
        print("error: `make lock` needs uv on the PATH (`pip install uv`).", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        return error.returncode
    lines = [line for line in LOCK.read_text().splitlines() if not _OF_TORCH.match(line)]
    LOCK.write_text(HEADER + "\n".join(line for line in lines if line[:1] != "#") + "\n")
    print(f"{LOCK.name}: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
