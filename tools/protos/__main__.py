"""`python -m tools.protos generate | check`: the wire contract's stubs, style and lock."""

from __future__ import annotations

import sys

from tools.protos import drift, lock, style
from tools.protos.files import compile_protos, generate_stubs


def main() -> int:
    """Generates stubs and adds to the lock, or checks both and the style."""
    action = sys.argv[1] if len(sys.argv) == 2 else ""
    if action not in ("generate", "check"):
        print(f"usage: python -m tools.protos generate | check (not {sys.argv[1:]})")
        return 2
    files = compile_protos()
    problems = style.find_problems(files)
    if action == "generate":
        generate_stubs()
        problems += lock.extend(files)
    else:
        problems += lock.find_problems(files) + drift.find_problems(files)
    for problem in problems:
        print(problem)
    print(f"protos: {len(problems)} problems" if problems else "protos: in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
