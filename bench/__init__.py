"""Measurements of Baton on this machine; `python -m bench.serving` runs them."""

from __future__ import annotations

import os

# Before grpc is loaded: its remarks on peers that were stopped would land among the results.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
