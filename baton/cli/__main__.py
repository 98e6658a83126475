"""`python -m baton.cli` is `baton`."""

from __future__ import annotations

from baton.cli import main

if __name__ == "__main__":
    main()
