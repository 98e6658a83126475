"""The `baton` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line. Errors are one sentence; `--debug` shows where they come from."""
    # Set before gRPC loads: its remarks on connections that close are not for users.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from baton.cli.app import app
    from baton.cli.errors import CommandError
    from baton.errors import BatonError

    # Kept out of the commands' own flags so that it works wherever it stands.
    is_debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app(arguments, prog_name="baton")
    except (CommandError, BatonError) as error:
        if is_debug:
            raise
        _fail(str(error))
    except Exception as error:
        if is_debug:
            raise
        _fail(f"unexpected {type(error).__name__}: {error} (`--debug` shows where it comes from)")


def _fail(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1)
