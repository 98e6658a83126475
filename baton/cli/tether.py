"""Starts a command that ends when its parent does: `tether.py PARENT_PID COMMAND...`.

Run as a file, so that it imports nothing of ours. A `preexec_fn` could do the same, but would run
Python between fork and exec, beside threads of gRPC.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Asks for SIGTERM at the parent's death, then becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # Elsewhere than on Linux a killed supervisor leaves its children behind.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        # The parent may have died before the request was made.
        if os.getppid() != parent:
            sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main()
