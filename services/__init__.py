"""The processes of Baton, one package each; no service imports another."""

import os

# Behind each parallel operator of torch its OpenMP threads spin, for milliseconds unless told
# otherwise, on cores that the engine's own threads want by then. OpenMP reads this when torch is
# loaded, so it is said before anything of a worker is.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
